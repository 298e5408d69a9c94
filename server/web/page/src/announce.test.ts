import { expect, it } from "vitest";
import { Announcer } from "./announce";

function scene() {
  let now = 0;
  let timers: { at: number; work: () => void }[] = [];
  const said: [number, string][] = [];
  const announcer = new Announcer(
    (text) => said.push([now / 1000, text]),
    () => now,
    (work, wait) => {
      const timer = { at: now + wait, work };
      timers.push(timer);
      return timer;
    },
    (timer) => {
      timers = timers.filter((other) => other !== timer);
    },
  );
  /** Let time pass, second by second. */
  const pass = (seconds: number, each: (second: number) => void = () => {}) => {
    for (let at = 1; at <= seconds; at++) {
      now += 1000;
      for (const timer of timers.filter(({ at }) => at <= now)) {
        timers.splice(timers.indexOf(timer), 1);
        timer.work();
      }
      each(at);
    }
  };
  return { announcer, said, pass };
}

it("says each minute of a fast upload and each tenth of a slow one", () => {
  const fast = scene();
  fast.announcer.begin(0);
  fast.pass(300, (second) => fast.announcer.progress(second / 300, () => "on"));
  expect(fast.said.map(([at]) => at)).toEqual([60, 120, 180, 240, 300]);

  const slow = scene();
  slow.announcer.begin(0);
  slow.pass(3000, (second) => slow.announcer.progress(second / 3000, () => "on"));
  expect(slow.said).toHaveLength(10);
});

it("begins a resumed upload at its own tenth", () => {
  const { announcer, said, pass } = scene();
  announcer.begin(0.56);
  pass(70, () => announcer.progress(0.57, () => "on"));
  expect(said).toEqual([]);
});

it("is quiet for fifteen seconds between what happened by itself, and says the last of it", () => {
  const { announcer, said, pass } = scene();
  announcer.change("offline");
  pass(3);
  announcer.change("back");
  pass(3);
  announcer.change("offline again");
  pass(30);
  expect(said).toEqual([
    [0, "offline"],
    [15, "offline again"],
  ]);
});

it("answers a person at once, in place of what waited", () => {
  const { announcer, said, pass } = scene();
  announcer.change("offline");
  pass(2);
  announcer.change("back");
  announcer.answer("Paused.");
  pass(60);
  expect(said.map(([, text]) => text)).toEqual(["offline", "Paused."]);
});
