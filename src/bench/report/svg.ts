/**
 * Charts as SVG text, with scales and paths of D3. Colours are CSS variables of the page, so that one drawing serves
 * light and dark.
 */
import { scaleLinear, scaleLog } from 'd3-scale';
import { line } from 'd3-shape';

export interface Series {
  readonly name: string;
  /** A CSS colour. */
  readonly color: string;
  /** In ascending x. */
  readonly points: readonly Point[];
}

type Point = readonly [x: number, y: number];

export interface Axis {
  readonly label: string;
  readonly scale: 'linear' | 'log';
  readonly format: (value: number) => string;
}

export interface LineChart {
  readonly title: string;
  readonly x: Axis;
  readonly y: Axis;
  readonly series: readonly Series[];
}

export interface Bar {
  readonly label: string;
  readonly color: string;
  /** Undefined where there is no figure. */
  readonly value: { readonly median: number; readonly min: number; readonly max: number } | undefined;
}

export interface BarChart {
  readonly title: string;
  readonly bars: readonly Bar[];
  readonly format: (value: number) => string;
}

const LINE = { width: 720, height: 300, left: 64, right: 30, top: 34, bottom: 44 } as const;
const BAR = { width: 720, row: 24, left: 230, right: 90, top: 34, bottom: 10 } as const;
const TICKS = 6;
/** An axis needs two different ends. */
const MIN_SPAN = 1e-9;

export function lineChart({ title, x, y, series }: LineChart): string {
  const { width, height, left, right, top, bottom } = LINE;
  const points = series.flatMap((each) => each.points);
  if (points.length === 0) return emptyChart(title, width);
  const across = scaleOf(
    x,
    points.map((point) => point[0]),
    [left, width - right],
  );
  const up = scaleOf(
    y,
    points.map((point) => point[1]),
    [height - bottom, top],
  );
  const grid = up.ticks.map((tick) => {
    const at = coordinate(up.place(tick));
    return `<line class="grid" x1="${left}" x2="${width - right}" y1="${at}" y2="${at}"/>${text(left - 8, up.place(tick) + 4, y.format(tick), 'end')}`;
  });
  const columns = across.ticks.map((tick) =>
    text(across.place(tick), height - bottom + 18, x.format(tick), 'middle'),
  );
  const lines = series
    .filter((each) => each.points.length > 0)
    .map((each) => {
      const path = line<Point>(
        ([x]) => across.place(x),
        ([, y]) => up.place(y),
      ).digits(1);
      return `<path d="${path(each.points)}" fill="none" stroke="${each.color}" stroke-width="1.8"><title>${escapeText(each.name)}</title></path>`;
    });
  const axis = `<line class="axis" x1="${left}" x2="${width - right}" y1="${height - bottom}" y2="${height - bottom}"/>`;
  return svg({ title, width, height }, [
    heading(title),
    ...grid,
    axis,
    ...columns,
    text(width - right, height - 8, x.label, 'end'),
    text(width - right, 16, y.label, 'end'),
    ...lines,
  ]);
}

/** Medians as horizontal bars, ranges as whiskers. */
export function barChart({ title, bars, format }: BarChart): string {
  const { width, row, left, right, top, bottom } = BAR;
  const largest = Math.max(...bars.map(({ value }) => value?.max ?? 0), MIN_SPAN);
  const x = (value: number) => left + (value / largest) * (width - left - right);
  const height = top + bars.length * row + bottom;
  const rows = bars.map(({ label, color, value }, at) => {
    const y = top + at * row;
    const middle = y + row / 2;
    const name = text(left - 8, middle + 4, label, 'end');
    if (value === undefined) return name + text(left + 4, middle + 4, '–', 'start');
    const { median, min, max } = value;
    const whisker =
      max > min
        ? `<path class="whisker" d="M${coordinate(x(min))} ${middle}H${coordinate(x(max))}M${coordinate(x(min))} ${middle - 4}v8M${coordinate(x(max))} ${middle - 4}v8"/>`
        : '';
    return [
      name,
      `<rect x="${left}" y="${y + 4}" width="${coordinate(Math.max(1, x(median) - left))}" height="${row - 8}" rx="2" fill="${color}"/>`,
      whisker,
      text(x(max) + 8, middle + 4, format(median), 'start', 'value'),
    ].join('');
  });
  return svg({ title, width, height }, [heading(title), ...rows]);
}

interface Scale {
  readonly place: (value: number) => number;
  readonly ticks: readonly number[];
}

function scaleOf({ scale }: Axis, values: readonly number[], range: readonly [number, number]): Scale {
  const usable = scale === 'log' ? values.filter((value) => value > 0) : [0, ...values];
  const smallest = usable.reduce((low, value) => Math.min(low, value), Infinity);
  const largest = usable.reduce((high, value) => Math.max(high, value), -Infinity);
  if (scale === 'log') return logScale(smallest, largest, range);
  const place = scaleLinear([smallest, Math.max(largest, smallest + MIN_SPAN)], range).nice(TICKS);
  return { place, ticks: place.ticks(TICKS) };
}

/** The ends are whole powers of ten. Values that are not above zero are drawn at the lower end. */
function logScale(smallest: number, largest: number, range: readonly [number, number]): Scale {
  const [from, to] = Number.isFinite(smallest) ? [smallest, largest] : [1, 10];
  const place = scaleLog([from, Math.max(to, from * 1.01)], range)
    .nice()
    .clamp(true);
  return { place, ticks: place.ticks().filter((tick) => Number.isInteger(Math.log10(tick))) };
}

function svg(
  { title, width, height }: { readonly title: string; readonly width: number; readonly height: number },
  parts: readonly string[],
): string {
  return `<svg viewBox="0 0 ${width} ${height}" role="img" aria-label="${escapeText(title)}">${parts.join('')}</svg>`;
}

function emptyChart(title: string, width: number): string {
  return svg({ title, width, height: 60 }, [heading(title), text(0, 44, 'not measured', 'start')]);
}

function heading(title: string): string {
  return text(0, 16, title, 'start', 'title');
}

function text(x: number, y: number, content: string, anchor: string, style = 'label'): string {
  return `<text class="${style}" x="${coordinate(x)}" y="${coordinate(y)}" text-anchor="${anchor}">${escapeText(content)}</text>`;
}

function coordinate(value: number): string {
  return String(Math.round(value * 10) / 10);
}

export function escapeText(content: string): string {
  return content
    .replaceAll('&', '&amp;')
    .replaceAll('<', '&lt;')
    .replaceAll('>', '&gt;')
    .replaceAll('"', '&quot;');
}
