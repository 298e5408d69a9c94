import { useState } from "preact/hooks";
import { Complete, sum } from "./about";
import { Contact, contactOf, Name, Note, type Props, Protection, recipientOf, Row, Title } from "./ui";

/** Fetch all receipts as one file, and say so if none could be. */
function useReceipts({ ui }: Props) {
  const [state, setState] = useState<"" | "fetching" | "failed">("");
  const download = async () => {
    setState("fetching");
    const blob = await ui.engine.receipts();
    setState(blob ? "" : "failed");
    if (!blob) return;
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = `${ui.text.plain("receipt-file")}-${ui.engine.snapshot().receipt?.number ?? "drop-off"}.txt`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  };
  const said =
    state === "failed" ? (
      <Note kind="bad">
        <p>{ui.text.plain("receipt-failed")}</p>
      </Note>
    ) : null;
  return { download: () => void download(), said, fetching: state === "fetching" };
}

export function Done({ ui }: Props) {
  const { engine, snap, text, page } = ui;
  const info = snap.info!;
  const receipt = snap.receipt;
  const { download, said, fetching } = useReceipts({ ui });
  const more = info.expiresAt === null ? "more" : "more-until";
  return (
    <>
      <svg class="end noprint" width="56" height="56" viewBox="0 0 56 56" aria-hidden="true" focusable="false">
        <path fill="none" stroke="currentColor" stroke-width="4" d="M28 4a24 24 0 1 0 .1 0zM17 29l8 8 15-17" />
      </svg>
      <Title ui={ui}>{text.plain("done-title")}</Title>
      {receipt && (
        <section class="slip flow" aria-labelledby="receipt">
          <h2 id="receipt">
            <span class="step">{text.plain("receipt")}</span>
            {text.plain("complete", { what: sum(ui, receipt.files, receipt.bytes) })}
          </h2>
          <dl class="sum">
            <Row label={text.plain("for")}>
              <Name name={info.name} />
            </Row>
            <Row label={text.plain("received-by")}>
              <Name name={recipientOf(ui)} />
              {info.recipient && (
                <>
                  <br />
                  {page.institute}
                </>
              )}
            </Row>
            <Row label={text.plain("complete-at")}>
              <time dateTime={new Date(receipt.at).toISOString()}>{text.exact(receipt.at)}</time>
            </Row>
            <Row label={text.plain("protection")}>
              <Protection ui={ui} />
            </Row>
            <Row label={text.plain("receipt-number")}>{receipt.number ?? <span class="soft">{text.plain("receipt-soon")}</span>}</Row>
          </dl>
        </section>
      )}
      {said}
      <div class="acts noprint">
        <button type="button" class="main" onClick={download}>
          {text.plain("receipt-download")}
        </button>
        <button type="button" onClick={() => print()}>
          {text.plain("print")}
        </button>
        {fetching && <span class="soft">{text.plain("asking")}</span>}
      </div>
      <p class="noprint">{text.plain("receipt-what")}</p>
      <p class="soft noprint">
        {text.rich(more, {
          date: info.expiresAt === null ? "" : text.day(info.expiresAt),
          act: (
            <button type="button" class="quiet" onClick={() => engine.startOver()}>
              {text.plain("more-act")}
            </button>
          ),
        })}
      </p>
    </>
  );
}

/** Closed, over, or not open yet. */
export function Closed({ ui }: Props) {
  const { snap, text } = ui;
  const { download, said } = useReceipts({ ui });
  const contact = contactOf(ui);
  const problem = snap.problem;
  const asked = { contact: <Contact ui={ui} /> };
  const notOpen = problem?.kind === "not-open";
  const opens = notOpen && problem.opensAt ? text.date(problem.opensAt) : null;
  return (
    <>
      <Title ui={ui}>{closedTitle(ui)}</Title>
      <p>
        {notOpen
          ? text.rich(opens ? "not-open-until" : "not-open-what", { ...asked, time: opens })
          : text.rich(problem?.kind === "ended" ? "ended-what" : "closed-what", asked)}
      </p>
      {snap.earlier.complete && (
        <p class="note">
          <Complete ui={ui} /> {text.plain("closed-kept")}{" "}
          <button type="button" class="quiet" onClick={download}>
            {text.plain("receipt-download")}
          </button>
        </p>
      )}
      {said}
      {contact?.includes("@") && (
        <div class="acts">
          <a class="button main" href={`mailto:${contact}`}>
            {text.plain("write")}
          </a>
        </div>
      )}
    </>
  );
}

export function closedTitle({ snap, text }: Props["ui"]): string {
  const kind = snap.problem?.kind;
  return text.plain(kind === "not-open" ? "not-open" : kind === "ended" ? "ended" : "closed");
}
