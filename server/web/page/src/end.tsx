import { Complete, useReceipts } from "./receipt";
import { Contact, contactOf, Name, type Props, Protection, Receiver, recipientOf, Row, sum, Title, type Ui } from "./ui";

export function Done({ ui }: Props) {
  const { engine, snap, text } = ui;
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
            {recipientOf(ui) && (
              <Row label={text.plain("received-by")}>
                <Receiver ui={ui} />
              </Row>
            )}
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

/** Closed, over, not open yet, or not to be sealed by this browser. */
export function Closed({ ui }: Props) {
  const contact = contactOf(ui);
  return (
    <>
      <Title ui={ui}>{closedTitle(ui)}</Title>
      <p>{why(ui)}</p>
      <Complete ui={ui} closed />
      {contact?.includes("@") && (
        <div class="acts">
          <a class="button main" href={`mailto:${contact}`}>
            {ui.text.plain("write")}
          </a>
        </div>
      )}
    </>
  );
}

function why(ui: Ui) {
  const { snap, text } = ui;
  const { problem } = snap;
  const asked = { contact: <Contact ui={ui} /> };
  switch (problem?.kind) {
    case "cannot-seal":
      return text.rich(problem.why === "browser" ? "cannot-seal-browser" : "cannot-seal", asked);
    case "not-open":
      if (problem.opensAt === null) return text.rich("not-open-what", asked);
      return text.rich("not-open-until", { ...asked, time: text.date(problem.opensAt) });
    default:
      return text.rich(problem?.kind === "ended" ? "ended-what" : "closed-what", asked);
  }
}

export function closedTitle({ snap, text }: Ui): string {
  switch (snap.problem?.kind) {
    case "not-open":
      return text.plain("not-open-title");
    case "ended":
      return text.plain("ended-title");
    case "cannot-seal":
      return text.plain("cannot-seal-title");
    default:
      return text.plain("closed");
  }
}
