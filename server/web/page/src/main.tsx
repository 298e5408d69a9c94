import { createEngine } from "./engine";
import { takeFragment } from "./engine/code";
import { show } from "./show";

const engine = createEngine();
// The link opened again in the same tab only changes the fragment: its code leaves the address bar here too.
addEventListener("hashchange", () => {
  const code = takeFragment();
  if (code !== null) void engine.enterCode(code);
});
void show(engine);
