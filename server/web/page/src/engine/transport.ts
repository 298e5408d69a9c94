/**
 * One attempt to send a file's bytes, and what came of it. The only file that knows tus-js-client, of which it takes
 * the requests alone: no retry, no storage, no fingerprints. An upload that is there is gone on with by its URL and
 * without an endpoint, so that no answer makes it begin anew.
 */

import { DetailedError, type HttpRequest, type HttpResponse, Upload } from "tus-js-client";
import { type Answer, readAnswer } from "./retry";
import { onOffline } from "./wake";

/** The bytes to send. */
export interface Source {
  readonly size: number;
  slice(from: number, to: number): Promise<Blob>;
}

export interface Target {
  endpoint: string;
  /** Of the upload that is to be gone on with; null creates one. */
  url: string | null;
  code: string;
  /** What a new upload's URL is to end in. */
  token: string;
  metadata: Record<string, string>;
  chunkBytes: number;
  /** The first bytes go with the creation, in one request. */
  withData: boolean;
}

/** Told while it goes on. Offsets are those of the source. */
export interface Watch {
  url(url: string): void;
  sent(offset: number): void;
  stored(offset: number): void;
  expires(at: number): void;
}

export type Outcome =
  /** Complete; or, unless `finished`, whole, and the server is still at it. */
  | { kind: "whole"; finished: boolean }
  | { kind: "answer"; answer: Answer }
  /** Nothing answered, or nothing went on for 30 s. */
  | { kind: "line" }
  /** The source did not give its bytes. */
  | { kind: "source"; error: unknown }
  /** What the server has under this URL has another length. */
  | { kind: "other" }
  | { kind: "stopped" };

const STALL_MS = 30_000;
const HEAD_MS = 5_000;

/** In the place of the file, of which tus-js-client sees only what the reader gives. */
const NOTHING = new Blob();

class SourceError extends Error {}
class OtherError extends Error {}

/** Ask where an upload stands. A number is its offset; null if nothing answered. */
export async function askOffset(url: string, signal?: AbortSignal): Promise<number | Answer | null> {
  const stop = new AbortController();
  const abort = () => stop.abort();
  const timer = setTimeout(abort, STALL_MS);
  signal?.addEventListener("abort", abort);
  try {
    const headers = { "Tus-Resumable": "1.0.0" };
    const answer = await fetch(url, { method: "HEAD", headers, cache: "no-store", signal: stop.signal });
    const offset = answer.headers.get("Upload-Offset");
    if (answer.ok && offset !== null) return Number(offset);
    return readAnswer(answer.status, (name) => answer.headers.get(name), "");
  } catch {
    return null;
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener("abort", abort);
  }
}

/** Make one attempt: create if there is no URL, else HEAD; then PATCH until it is whole or something is in the way. */
export function attempt(source: Source, target: Target, watch: Watch, stop: AbortSignal): Promise<Outcome> {
  return new Promise((resolve) => {
    let [url, sent, stored, alive, asking, reading] = [target.url, 0, 0, Date.now(), false, false];
    const reader = {
      slice: async (from: number, to: number) => {
        reading = true;
        try {
          const value = await source.slice(from, Math.min(to, source.size));
          return { value, done: to >= source.size };
        } catch (error) {
          throw Object.assign(new SourceError(), { cause: error });
        } finally {
          reading = false;
          alive = Date.now();
        }
      },
      size: source.size,
      close: () => undefined,
    };
    const reached = (offset: number) => {
      if (offset > stored) alive = Date.now();
      stored = Math.max(stored, offset);
      watch.stored(offset);
    };
    const upload = new Upload(NOTHING, {
      endpoint: url ? null : target.endpoint,
      uploadUrl: url,
      uploadSize: source.size,
      chunkSize: target.chunkBytes,
      uploadDataDuringCreation: target.withData,
      metadata: target.metadata,
      headers: { ...(target.code && { "Dropoff-Code": target.code }), ...(!url && { "Dropoff-Token": target.token }) },
      retryDelays: null as unknown as number[],
      storeFingerprintForResuming: false,
      fingerprint: () => Promise.resolve(""),
      fileReader: { openFile: () => Promise.resolve(reader) },
      onUploadUrlAvailable: () => {
        if (url) return;
        // The page asks at its own origin, whatever address the server thinks it has.
        url = upload.url = target.endpoint + upload.url?.split("/").pop();
        watch.url(url);
      },
      onBeforeRequest: (request: HttpRequest) => {
        // Safari tells a line that was cut as an abort, of which tus-js-client hears nothing.
        (request.getUnderlyingObject() as XMLHttpRequest).onabort = () => end({ kind: "line" });
      },
      onProgress: (offset) => {
        if (offset > sent) alive = Date.now();
        sent = offset;
        watch.sent(offset);
      },
      onChunkComplete: (_size, offset) => reached(offset),
      onAfterResponse: (request: HttpRequest, response: HttpResponse) => {
        const status = response.getStatus();
        const expires = response.getHeader("Upload-Expires");
        if (status < 300 && expires) watch.expires(Date.parse(expires));
        if (request.getMethod() !== "HEAD" || status >= 300) return;
        if (Number(response.getHeader("Upload-Length")) !== source.size) throw new OtherError();
        reached(Number(response.getHeader("Upload-Offset")));
      },
      onSuccess: ({ lastResponse }) => {
        // HEAD of an upload that is whole is answered with 423 until it is complete, so its 200 says all.
        const finished = lastResponse.getHeader("Upload-Length") ?? lastResponse.getHeader("Dropoff-Receipt");
        end({ kind: "whole", finished: !!finished });
      },
      onError: (error) => end(outcomeOf(error)),
    });
    const tick = async () => {
      // A file that is slow to read is not the line's fault.
      if (!reading && Date.now() - alive > STALL_MS) return end({ kind: "line" }, true);
      // Unasked, nobody knows what a proxy before the server has swallowed and not yet passed on.
      if (!url || asking) return;
      asking = true;
      const answer = await askOffset(url, stop);
      asking = false;
      if (typeof answer === "number") reached(answer);
      else if (answer?.status === 404 || answer?.status === 410) end({ kind: "answer", answer }, true);
      else if (answer?.status === 423 && answer.ours && sent >= source.size) alive = Date.now();
    };
    const timer = setInterval(tick, HEAD_MS);
    const stopped = () => end({ kind: "stopped" }, true);
    // A request may hang for long on a line that is gone; to ask anew costs little if it is not.
    const unheed = onOffline(() => end({ kind: "line" }, true));
    let ended = false;
    function end(outcome: Outcome, abort = false): void {
      if (ended) return;
      ended = true;
      clearInterval(timer);
      unheed();
      stop.removeEventListener("abort", stopped);
      if (abort) void upload.abort();
      resolve(outcome);
    }
    stop.addEventListener("abort", stopped);
    if (stop.aborted) stopped();
    else upload.start();
  });
}

function outcomeOf(error: Error | DetailedError): Outcome {
  const cause = error instanceof DetailedError ? error.causingError : error;
  if (cause instanceof SourceError) return { kind: "source", error: cause.cause };
  if (cause instanceof OtherError) return { kind: "other" };
  const response = error instanceof DetailedError ? error.originalResponse : null;
  if (!response?.getStatus()) return { kind: "line" };
  const body = response.getBody() ?? "";
  const answer = readAnswer(response.getStatus(), (name) => response.getHeader(name) ?? null, body);
  return { kind: "answer", answer };
}
