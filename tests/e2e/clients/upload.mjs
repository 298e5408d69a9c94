// Run one tus-js-client job: JSON on stdin, JSON on stdout.
//
// job = {
//   endpoint, uploadUrl      where to create, or what to go on with
//   file                     a path; with "stream": true it is read as a stream of unknown length
//   headers, metadata        as tus-js-client takes them
//   options                  passed on: chunkSize, overridePatchMethod, uploadDataDuringCreation, ...
//   urlStorage               a path: remember upload URLs there between runs
//   resume                   true: go on with what urlStorage remembers of this file
//   abortAfterBytes          stop once this much is on its way
//   terminate                true: DELETE the upload after that stop
// }
// result = { outcome: "success" | "aborted" | "error", url, error, requests: [{ method, url, headers, status }],
//            previousUploads }
import fs from 'node:fs'
import { PassThrough } from 'node:stream'
import * as tus from 'tus-js-client'

const job = JSON.parse(fs.readFileSync(0, 'utf8'))
const requests = []
const entries = new Map()

function openInput() {
  const input = fs.createReadStream(job.file)
  // A read stream with a path has a known length; a pipe has none.
  return job.stream ? input.pipe(new PassThrough()) : input
}

function finish(outcome, extra = {}) {
  process.stdout.write(JSON.stringify({ outcome, url: upload.url, requests, previousUploads, ...extra }))
  process.exitCode = 0
}

let previousUploads = 0
let settled = false
const settle = (outcome, extra) => {
  if (!settled) {
    settled = true
    finish(outcome, extra)
  }
}

const upload = new tus.Upload(openInput(), {
  endpoint: job.endpoint,
  uploadUrl: job.uploadUrl ?? null,
  headers: job.headers ?? {},
  metadata: job.metadata ?? {},
  // Retries would hide an answer that clients should never have got.
  retryDelays: [],
  ...(job.urlStorage ? { urlStorage: new tus.FileUrlStorage(job.urlStorage) } : {}),
  ...job.options,
  onBeforeRequest(req) {
    const entry = { method: req.getMethod(), url: req.getURL(), headers: {}, status: null }
    entries.set(req, entry)
    requests.push(entry)
  },
  onAfterResponse(req, res) {
    const entry = entries.get(req)
    entry.headers = req.getUnderlyingObject().getHeaders()
    entry.status = res.getStatus()
    entry.location = res.getHeader('Location') ?? null
  },
  onProgress(sentBytes) {
    if (job.abortAfterBytes === undefined || settled || sentBytes < job.abortAfterBytes) return
    settled = true
    upload
      .abort(job.terminate === true)
      .then(() => finish('aborted'))
      .catch((error) => finish('error', { error: String(error) }))
  },
  onSuccess() {
    settle('success')
  },
  onError(error) {
    settle('error', {
      error: String(error),
      status: error.originalResponse ? error.originalResponse.getStatus() : null,
    })
  },
})

if (job.resume) {
  const previous = await upload.findPreviousUploads()
  previousUploads = previous.length
  if (previous.length > 0) upload.resumeFromPreviousUpload(previous[0])
}
upload.start()
