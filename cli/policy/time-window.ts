import type { Day, TimeWindow } from './model.js';
import { DAYS } from './schema.js';

const formats = new Map<string, Intl.DateTimeFormat>();

/** The day and the minute of it at some moment in a time zone. @param at milliseconds since the epoch */
export function localTime(at: number, zone: string): { readonly day: Day; readonly minute: number } {
  const format =
    formats.get(zone) ??
    new Intl.DateTimeFormat('en-US', {
      timeZone: zone,
      weekday: 'short',
      hour: '2-digit',
      minute: '2-digit',
      hourCycle: 'h23',
    });
  formats.set(zone, format);
  const parts = Object.fromEntries(format.formatToParts(at).map(({ type, value }) => [type, value]));
  const day = DAYS.find((name) => name === parts.weekday?.toLowerCase());
  if (day === undefined) throw new TypeError(`no weekday in ${format.format(at)}`);
  return { day, minute: Number(parts.hour) * 60 + Number(parts.minute) };
}

/** Whether a moment lies in a window: its beginning belongs to it, its end does not. */
export function inWindow({ days, from, to, zone }: TimeWindow, at: number): boolean {
  const { day, minute } = localTime(at, zone);
  const begin = minuteOf(from);
  const end = minuteOf(to);
  if (begin < end) return days.includes(day) && minute >= begin && minute < end;
  const yesterday = DAYS[(DAYS.indexOf(day) + 6) % 7] ?? day;
  return (days.includes(day) && minute >= begin) || (days.includes(yesterday) && minute < end);
}

function minuteOf(clock: string): number {
  const [hours = 0, minutes = 0] = clock.split(':').map(Number);
  return hours * 60 + minutes;
}
