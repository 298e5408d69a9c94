import { Complete } from "./receipt";
import { kindsOf, Name, type Props, Protection, recipientOf, Row, Title, type Ui } from "./ui";

/** What this is: who receives, until when, how much, and how it is protected. */
export function About({ ui }: Props) {
  const { engine, snap, text, page } = ui;
  const info = snap.info!;
  const recipient = <Name name={recipientOf(ui)} />;
  const kinds = kindsOf(ui, info.types, info.names, "and");
  return (
    <>
      <Title ui={ui}>{aboutTitle(ui, true)}</Title>
      <p>{text.rich(page.institute ? "about" : "about-nobody", { institute: page.institute, name: <Name name={info.name} /> })}</p>
      <dl class="sum">
        {recipientOf(ui) && <Row label={text.plain("who")}>{recipient}</Row>}
        {info.expiresAt !== null && <Row label={text.plain("until")}>{text.date(info.expiresAt)}</Row>}
        <Row label={text.plain("kinds")}>{kinds ? text.plain("kinds-some", { kinds }) : text.plain("kinds-any")}</Row>
        <Row label={text.plain("how-much")}>{howMuch(ui)}</Row>
        <Row label={text.plain("protection")}>
          <b>
            <Protection ui={ui} />
          </b>
          {info.sealing ? (
            <>
              <p>{info.recipient ? text.rich("sealed-who", { recipient }) : text.plain("sealed-somebody")}</p>
              <p class="hint small">{text.plain("sealed-limit")}</p>
            </>
          ) : (
            <p class="hint">{text.plain("encrypted-how")}</p>
          )}
        </Row>
      </dl>
      <Complete ui={ui} />
      <div class="acts">
        <button type="button" class="main" onClick={() => engine.begin()}>
          {text.plain("start")}
        </button>
      </div>
      <p class="soft">{text.plain("bad-line")}</p>
    </>
  );
}

/** The heading, for the page and for the title of the window. */
export function aboutTitle(ui: Ui, rich: boolean) {
  const recipient = recipientOf(ui);
  if (!recipient) return ui.text.plain("about-title-nobody");
  return rich ? ui.text.rich("about-title", { recipient: <Name name={recipient} /> }) : ui.text.plain("about-title", { recipient });
}

function howMuch({ snap, text }: Ui): string {
  const { maxTotalBytes, maxUploadBytes, maxUploads, bytesLeft, uploadsLeft } = snap.info!;
  const said = text.pieces([
    maxTotalBytes ? text.plain("much-total", { size: text.size(maxTotalBytes) }) : "",
    maxUploads ? text.plain("much-files", { n: maxUploads }) : "",
    maxUploadBytes ? text.plain("much-each", { size: text.size(maxUploadBytes) }) : "",
  ]);
  const left = [
    bytesLeft !== null && bytesLeft < maxTotalBytes ? text.plain("room", { room: text.size(bytesLeft) }) : "",
    uploadsLeft !== null && uploadsLeft < maxUploads ? text.plain("room", { room: text.files(uploadsLeft) }) : "",
  ].filter(Boolean);
  return said ? [said, ...left].join(". ") : text.plain("much-any");
}
