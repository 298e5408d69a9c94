import { useState } from "preact/hooks";
import { Note, type Props, sum } from "./ui";

/** Fetch all receipts as one file, and say so if none could be. */
export function useReceipts({ ui }: Props) {
  const { engine, text } = ui;
  const [state, setState] = useState<"" | "fetching" | "failed">("");
  const download = async () => {
    setState("fetching");
    const blob = await engine.receipts();
    setState(blob ? "" : "failed");
    if (!blob) return;
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = `${text.plain("receipt-file")}-${engine.snapshot().receipt?.number ?? new Date().toISOString().slice(0, 10)}.txt`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  };
  const said =
    state === "failed" ? (
      <Note kind="bad">
        <p>{text.plain("receipt-failed")}</p>
      </Note>
    ) : null;
  return { download: () => void download(), said, fetching: state === "fetching" };
}

/** What is complete from this browser, without names, and its receipt. */
export function Complete({ ui, closed }: Props & { closed?: boolean }) {
  const { snap, text } = ui;
  const { download, said } = useReceipts({ ui });
  const complete = snap.earlier.complete;
  if (!complete) return null;
  return (
    <>
      <p class="note">
        <b>{text.plain("complete", { what: sum(ui, complete.files, complete.bytes) })}.</b> {closed && text.plain("closed-kept")}{" "}
        <button type="button" class="quiet" onClick={download}>
          {text.plain("receipt-download")}
        </button>
      </p>
      {said}
    </>
  );
}
