import type { ComponentChild, VNode } from "preact";
import type { FileRow, Problem } from "./engine/types";
import { Contact, kindsOf, Name, type Ui } from "./ui";

/** Why a chosen file or all of them cannot be sent, with names. */
export function cannotSend(ui: Ui, problem: Problem, name = ""): VNode {
  const { text } = ui;
  const named = <Name name={name} />;
  const contact = <Contact ui={ui} />;
  switch (problem.kind) {
    case "too-big":
      return text.rich("too-big", { name: named, size: text.size(problem.size), limit: text.size(problem.limit) });
    case "type":
      return text.rich("type", { name: named, kinds: kindsOf(ui, problem.types, problem.names, "or") ?? "" });
    case "full":
      return text.rich("full", { room: text.size(problem.room), over: text.size(problem.over), contact });
    case "too-many":
      return text.rich("too-many", { room: text.files(problem.room), over: text.files(problem.over), contact });
    default:
      return text.rich("cannot-send", { name: named });
  }
}

/** Why one file failed while it was sent: a sentence for its row. */
export function failure(ui: Ui, problem: Problem | null): ComponentChild {
  const { text } = ui;
  switch (problem?.kind) {
    case "unreadable":
    case "changed":
    case "expired":
    case "digest":
    case "other-tab":
    case "closed":
    case "ended":
      return text.plain(`why-${problem.kind}`);
    case "refused":
      return problem.words ? text.rich("why-refused-words", { words: <bdi>{problem.words}</bdi> }) : text.plain("why-refused");
    case "too-big":
      return text.rich("why-too-big", { limit: text.size(problem.limit) });
    case "type":
      return text.rich("why-type", { kinds: kindsOf(ui, problem.types, problem.names, "or") ?? "" });
    case "full":
      return text.rich("why-full", { room: text.size(problem.room) });
    case "too-many":
      return text.plain("why-too-many");
    default:
      return text.plain("why-refused");
  }
}

/** Whether only the institute can make it possible. */
export const needsInstitute = (problem: Problem | null) =>
  ["refused", "closed", "ended", "full", "too-many"].includes(problem?.kind ?? "");

/** A file that another tab sends: the engine says that it failed here, but nobody has to act. */
export const inOtherTab = (row: FileRow) => row.problem?.kind === "other-tab";

/** How many files failed of which somebody has to take care. */
export function failedHere({ engine, snap }: Ui): number {
  const { failed } = snap.counts;
  return failed && engine.rows("failed", 0, failed).filter((row) => !inOtherTab(row)).length;
}

/** Whether another reading of the file is needed, and not only another try. */
export const needsChoice = (row: FileRow) => row.problem?.kind === "unreadable" || row.problem?.kind === "changed";
