import type { ComponentChildren } from "preact";
import { useRef, useState } from "preact/hooks";
import type { FileRow, Filter } from "./engine/types";
import { failure, inOtherTab, needsChoice } from "./problems";
import { Hidden, Name, Pick, type Props, type Ui } from "./ui";

const PAGE = 100;

/** Rows in pages of a hundred, so that a screen reader and a search find them. */
export function Paged({ ui, filter, total, children }: Props & PagedProps) {
  const { engine, text } = ui;
  const [wanted, setFrom] = useState(0);
  const list = useRef<HTMLUListElement>(null);
  const from = Math.min(wanted, Math.max(0, Math.ceil(total / PAGE) - 1) * PAGE);
  const range = { from: from + 1, to: Math.min(from + PAGE, total), n: total };
  const turn = (by: number) => {
    setFrom(from + by);
    list.current!.focus();
  };
  return (
    <>
      <ul role="list" class="rows" ref={list} tabIndex={-1} aria-label={text.plain("range", range)}>
        {children(engine.rows(filter, from, PAGE), from)}
      </ul>
      {total > PAGE && (
        <nav class="acts" aria-label={text.plain("pages")}>
          <button type="button" disabled={from === 0} onClick={() => turn(-PAGE)}>
            {text.plain("previous", { n: PAGE })}
          </button>
          <button type="button" disabled={from + PAGE >= total} onClick={() => turn(PAGE)}>
            {text.plain("next", { n: Math.min(PAGE, Math.max(1, total - from - PAGE)) })}
          </button>
          <span class="soft">{text.plain("range", range)}</span>
        </nav>
      )}
    </>
  );
}
type PagedProps = { filter: Filter; total: number; children: (rows: readonly FileRow[], from: number) => ComponentChildren };

export const FileName = ({ row }: { row: { folder: string; name: string } }) => (
  <>
    {row.folder && <Name name={row.folder} soft />}
    <Name name={row.name} />
  </>
);

/** A file on its way, as a row says it in words. */
export function SentRow({ ui, row }: Props & { row: FileRow }) {
  const { text } = ui;
  if (row.state !== "failed" || inOtherTab(row)) {
    return (
      <li>
        <div>
          <FileName row={row} />
        </div>
        <p class="meta">{inOtherTab(row) ? failure(ui, row.problem) : stateOf(ui, row)}</p>
      </li>
    );
  }
  return (
    <li class="fail">
      <div>
        <FileName row={row} />
        <p class="why">
          <b class="err">{text.plain("failed")}</b> {failure(ui, row.problem)}
        </p>
      </div>
      <Again ui={ui} row={row} />
    </li>
  );
}

function stateOf({ text }: Ui, row: FileRow) {
  const size = text.size(row.size);
  const share = text.share(row.stored, row.size);
  switch (row.state) {
    case "stored":
      return text.rich("row-stored", { size });
    case "checking":
      return text.rich("row-checking", { size });
    case "sending":
      return text.plain(row.stored ? "row-part" : "row-sending", { share });
    default:
      return row.stored ? text.plain("row-part-waiting", { share }) : text.plain("row-waiting", { size });
  }
}

/** The one act that mends a failed file. */
export function Again({ ui, row }: Props & { row: FileRow }) {
  const { engine, text } = ui;
  const hidden = (
    <Hidden>
      <bdi>{row.name}</bdi>
    </Hidden>
  );
  return needsChoice(row) ? (
    <Pick quiet chosen={([file]) => void engine.chooseAgain(row.id, file!)}>
      {text.plain("choose-again")}
      {hidden}
    </Pick>
  ) : (
    <button type="button" class="quiet" onClick={() => engine.retry(row.id)}>
      {text.plain("send-again")}
      {hidden}
    </button>
  );
}
