/** The worker: one job after the other. */

import { type Job, work } from "./work";

addEventListener("message", async (event: MessageEvent<Job>) => {
  const done = await work(event.data).catch((error: unknown) => ({ failed: String(error) }));
  const moved = "data" in done && done.data ? [done.data.buffer] : [];
  postMessage(done, { transfer: moved });
});
