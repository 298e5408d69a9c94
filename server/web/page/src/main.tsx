import { createEngine } from "./engine";
import { show } from "./show";

void show(createEngine());
