/** What a browser has and Node has not. */

import "fake-indexeddb/auto";
import { NodeXhr } from "./xhr";

Object.assign(globalThis, { XMLHttpRequest: NodeXhr });
