// Run one age-encryption job: JSON on stdin, JSON on stdout.
//
// job = {
//   encrypt: [recipients]    seal each of `files` to them
//   decrypt: [identities]    open each of `files` with them
//   files                    base64 each
// }
// result = the files that came out, base64 each
import fs from 'node:fs'
import { webcrypto } from 'node:crypto'

// Node 18, which Debian 12 has, does not make it global yet; the library takes it for given when it is loaded.
globalThis.crypto ??= webcrypto
const age = await import('age-encryption')

const job = JSON.parse(fs.readFileSync(0, 'utf8'))

async function run(data) {
  if (job.encrypt) {
    const encrypter = new age.Encrypter()
    for (const recipient of job.encrypt) encrypter.addRecipient(recipient)
    return await encrypter.encrypt(data)
  }
  const decrypter = new age.Decrypter()
  for (const identity of job.decrypt) decrypter.addIdentity(identity)
  return await decrypter.decrypt(data)
}

const results = []
for (const file of job.files) {
  const made = await run(Uint8Array.from(Buffer.from(file, 'base64')))
  results.push(Buffer.from(made).toString('base64'))
}
process.stdout.write(JSON.stringify(results))
