import { show } from "../show";
import { countsOf, FakeEngine, many, NOTHING } from "./engine";
import { STATES } from "./states";

/** `?10-sending` shows that state, `put("11-paused")` another; `window.engine` is at the tests' hand. */
const engine = new FakeEngine(NOTHING);
const put = (name: string) => {
  const { snap, rows = [] } = STATES[name]?.() ?? { snap: {} };
  engine.set({ ...NOTHING, ...snap }, rows);
};
const first = location.search.slice(1);
put(first);
Object.assign(window, { engine, many, countsOf, put });
await show(engine);
const code = STATES[first]?.().code;
if (code) document.querySelector<HTMLInputElement>("#code")!.value = code;
