/** Keeping awake: the screen's lock, a question before leaving, one sender for each upload, and signs of the line's return. */

let lock: WakeLockSentinel | null = null;
let wanted = false;

async function takeLock(): Promise<void> {
  if (!wanted || lock || document.visibilityState !== "visible") return;
  try {
    const taken = await navigator.wakeLock.request("screen");
    taken.addEventListener("release", () => {
      lock = null;
    });
    lock = taken;
    if (!wanted) await taken.release();
  } catch {
    // Not known here, or refused, as on a low battery: sending goes on while the machine is awake.
  }
}

const ask = (event: BeforeUnloadEvent) => event.preventDefault();

/** Hold the screen and ask before leaving, as long as something is being sent. */
export function stayAwake(sending: boolean): void {
  if (sending === wanted || typeof document === "undefined") return;
  wanted = sending;
  if (sending) {
    addEventListener("beforeunload", ask);
    document.addEventListener("visibilitychange", takeLock);
    void takeLock();
  } else {
    removeEventListener("beforeunload", ask);
    document.removeEventListener("visibilitychange", takeLock);
    void lock?.release();
  }
}

/** Call `lost` when the browser finds itself offline, until what is returned is called. */
export function onOffline(lost: () => void): () => void {
  if (typeof document === "undefined") return () => undefined;
  addEventListener("offline", lost);
  return () => removeEventListener("offline", lost);
}

/** Call `wake` when the line may be back: online again, or looked at again. */
export function onWake(wake: () => void): void {
  if (typeof document === "undefined") return;
  addEventListener("online", wake);
  addEventListener("offline", wake);
  document.addEventListener("visibilitychange", () => {
    if (document.visibilityState === "visible") wake();
  });
}

/** Be the one sender of an upload, across tabs, while `work` runs; false at once if another tab is. */
export async function alone(name: string, work: () => Promise<void>): Promise<boolean> {
  if (!navigator.locks) {
    await work();
    return true;
  }
  return navigator.locks.request(`dropoff-tus ${name}`, { ifAvailable: true }, async (held) => {
    if (held) await work();
    return held !== null;
  });
}

/** Wait until no other tab sends an upload. */
export async function otherTabDone(name: string, signal: AbortSignal): Promise<void> {
  await navigator.locks.request(`dropoff-tus ${name}`, { signal }, () => undefined);
}
