import { show } from "../show";
import { FakeEngine, NOTHING, many, countsOf } from "./engine";
import { STATES } from "./states";

/** `?10-sending` shows that state; `window.engine` is at the tests' hand. */
const state = STATES[location.search.slice(1)]?.() ?? { snap: {} };
const engine = new FakeEngine({ ...NOTHING, ...state.snap }, state.rows);
Object.assign(window, { engine, many, countsOf });
await show(engine);
if (state.code) document.querySelector<HTMLInputElement>("#code")!.value = state.code;
