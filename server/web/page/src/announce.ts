/** At least so long passes between two texts that nobody asked for. */
const QUIET = 15_000;
const MINUTE = 60_000;

/**
 * Says in a polite live region what a progress bar does not: the start, each tenth or each minute, whichever comes
 * later, what changed, and the end. The clock and the timer are arguments, so that tests need not wait.
 */
export class Announcer {
  #saidAt = -Infinity;
  #progressAt = -Infinity;
  #tenth = 0;
  #timer: unknown = null;

  constructor(
    private readonly show: (text: string) => void,
    private readonly now: () => number = Date.now,
    private readonly later: (work: () => void, milliseconds: number) => unknown = (work, wait) => setTimeout(work, wait),
    // Called as it is here, a browser's own clearTimeout would refuse: it is the window's.
    private readonly drop: (timer: never) => void = (timer) => clearTimeout(timer),
  ) {}

  /** Say at once what a person's own act did. */
  answer(text: string): void {
    if (this.#timer !== null) this.drop(this.#timer as never);
    this.#timer = null;
    this.#saidAt = this.now();
    this.show(text);
  }

  /** Say what happened by itself: at once, or when it has been quiet long enough; the last text wins. */
  change(text: string): void {
    if (this.#timer !== null) this.drop(this.#timer as never);
    this.#timer = null;
    const wait = this.#saidAt + QUIET - this.now();
    if (wait <= 0) this.answer(text);
    else this.#timer = this.later(() => this.answer(text), wait);
  }

  /** Begin a stretch of sending, from a share between 0 and 1. */
  begin(share: number): void {
    this.#tenth = Math.floor(share * 10);
    this.#progressAt = this.now();
  }

  /** Say how far it is, if it is time for that. */
  progress(share: number, text: () => string): void {
    const tenth = Math.floor(share * 10);
    const now = this.now();
    if (tenth <= this.#tenth || now - this.#progressAt < MINUTE || now - this.#saidAt < QUIET || this.#timer !== null) return;
    this.#tenth = tenth;
    this.#progressAt = now;
    this.answer(text());
  }
}
