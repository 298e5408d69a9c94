// The Node server, with its file store and nothing else: node tusjs.mjs PORT FOLDER
import { createServer } from "node:http";
import { FileStore } from "@tus/file-store";
import { Server } from "@tus/server";

const [port, directory] = process.argv.slice(2);
const tus = new Server({ path: "/files", datastore: new FileStore({ directory }) });
const server = createServer((request, response) => tus.handle(request, response));
server.listen(Number(port), "127.0.0.1", () => console.log("ready"));
