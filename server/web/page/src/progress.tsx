import { type Props, recipientOf, type Ui } from "./ui";

type BarProps = { label: string; share: number; onItsWay?: number; text: string };

/** A bar of two parts: stored, and hatched what is on its way. Its widths are attributes, so no inline style. */
export function Bar({ label, share, onItsWay = 0, text }: BarProps) {
  const percent = (part: number) => `${Math.min(100, part * 100).toFixed(1)}%`;
  return (
    <div
      class="bar"
      role="progressbar"
      aria-label={label}
      aria-valuemin={0}
      aria-valuemax={100}
      aria-valuenow={Math.floor(share * 100)}
      aria-valuetext={text}
    >
      <svg width="100%" height="100%" aria-hidden="true" focusable="false">
        <defs>
          <pattern id="hatch" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">
            <path d="M0 0h3v6H0z" />
          </pattern>
        </defs>
        {/* Hatched below, and as wide as both. Neither glides: to paint that all the time can halve the speed of sending. */}
        <rect fill="url(#hatch)" width={percent(share + onItsWay)} height="100%" />
        <rect width={percent(share)} height="100%" />
      </svg>
    </div>
  );
}

/** In letters this large a number and its unit may stand on two lines. */
const breaking = (size: string) => size.replace(/[\u00a0\u202f]/g, " ");

const Swatch = ({ fill }: { fill?: string }) => (
  <i>
    <svg width="100%" height="100%">
      <rect width="100%" height="100%" fill={fill} />
    </svg>
  </i>
);

/** Of all bytes the stored part; whole only when the last answer is there. */
export function storedShare({ figures, state, part }: Props["ui"]["snap"]): number {
  const share = figures.total ? figures.stored / figures.total : 0;
  return state === "done" || part === "checking" ? share : Math.min(share, 0.994);
}

export const sendingTitle = ({ snap, text }: Ui) => text.plain("sending", { n: snap.counts.files });

/** The large figure is the stored one. */
export function Progress({ ui, prefix = "", suffix = "" }: Props & { prefix?: string; suffix?: string }) {
  const { snap, text } = ui;
  const { total, stored, onItsWay } = snap.figures;
  const share = storedShare(snap);
  const percent = text.percent(share);
  const said = text.plain("bar-stored", { percent, share: text.share(stored, total) });
  return (
    <section class="prog" aria-label={text.plain("progress")}>
      <p class="now soft">{text.rich("now", { stored: breaking(text.size(stored)), total: text.size(total), percent })}</p>
      <Bar
        label={recipientOf(ui) ? text.plain("bar", { files: text.files(snap.counts.files), recipient: recipientOf(ui) }) : sendingTitle(ui)}
        share={share}
        onItsWay={total ? onItsWay / total : 0}
        text={`${prefix && `${prefix} `}${text.pieces([said, suffix])}`}
      />
      <p class="key small soft" aria-hidden="true">
        <span>
          <Swatch />
          {text.plain("key-stored")}
        </span>
        <span>
          <Swatch fill="url(#hatch)" />
          {onItsWay ? text.plain("key-way", { size: text.size(onItsWay) }) : text.plain("key-nothing")}
        </span>
      </p>
    </section>
  );
}
