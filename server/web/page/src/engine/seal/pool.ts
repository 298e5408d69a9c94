/** Two to four workers, which are started at the first job and have one job each at a time. */

import workerUrl from "./worker?worker&url";
import type { Done, Job } from "./work";

export type Work = (job: Job) => Promise<Done>;

const MOST_WORKERS = 4;

export function pool(): Work {
  const size = Math.min(MOST_WORKERS, Math.max(2, navigator.hardwareConcurrency || 2));
  const idle: Worker[] = [];
  const queue: ((worker: Worker) => void)[] = [];
  let started = 0;
  const take = (): Promise<Worker> => {
    const worker = idle.pop() ?? (started++ < size ? new Worker(trusted(workerUrl), { type: "module" }) : null);
    return worker ? Promise.resolve(worker) : new Promise((taken) => queue.push(taken));
  };
  return async (job) => {
    const worker = await take();
    try {
      return await new Promise<Done>((done, failed) => {
        worker.onmessage = (event: MessageEvent<Done>) => done(event.data);
        worker.onerror = (event) => failed(new Error(event.message || "the worker did not start"));
        worker.postMessage(job);
      });
    } finally {
      const next = queue.shift();
      if (next) next(worker);
      else idle.push(worker);
    }
  };
}

/** A worker's address has to be vouched for where the page demands Trusted Types; this one is the bundle's own. */
function trusted(url: string): string {
  const types = (globalThis as { trustedTypes?: { createPolicy(name: string, rules: object): typeof policy } }).trustedTypes;
  policy ??= types?.createPolicy("dropoff", { createScriptURL: (own: string) => own }) ?? null;
  return policy ? policy.createScriptURL(url) : url;
}

let policy: { createScriptURL(url: string): string } | null = null;
