/** What one check of this machine says, in one line. */
export interface Finding {
  /** Stable, for scripts: `criu-proof`, `uplink-mtu:eth0`. */
  readonly check: string;
  readonly outcome: 'ok' | 'warning' | 'failed';
  readonly detail: string;
  /** What to do about it; for everything but `ok`. */
  readonly remedy?: string;
}

export function ok(check: string, detail: string): Finding {
  return { check, outcome: 'ok', detail };
}

export function warning(check: string, detail: string, remedy: string): Finding {
  return { check, outcome: 'warning', detail, remedy };
}

export function failed(check: string, detail: string, remedy: string): Finding {
  return { check, outcome: 'failed', detail, remedy };
}
