import "./page.css";
import { render } from "preact";
import { App } from "./app";
import type { Engine } from "./engine/types";
import { chooseLanguage, chooseLocale, LANGUAGES, type Language, Text } from "./text";
import type { Page } from "./ui";

/** Show the page for an engine, in the person's language if it is offered. */
export async function show(engine: Engine): Promise<void> {
  const page = JSON.parse(document.querySelector<HTMLMetaElement>("meta[name=dropoff]")!.content) as Page;
  const load = async (language: Language) => {
    const words = (await LANGUAGES[language].words()).default;
    return new Text(language, chooseLocale(language, navigator.languages), words);
  };
  const first = await load(chooseLanguage(navigator.languages, page.languages));
  render(<App engine={engine} page={page} first={first} load={load} />, document.body);
}
