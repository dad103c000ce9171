/**
 * Lets one act be under way at a time by its name: whoever asks for it meanwhile shares its result. A coordinator that did not
 * hear the answer in time asks again while the first request still works.
 */
export class OnceAtATime {
  private readonly underWay = new Map<string, Promise<unknown>>();

  async run<Result>(name: string, act: () => Promise<Result>): Promise<Result> {
    const present = this.underWay.get(name) as Promise<Result> | undefined;
    if (present !== undefined) return present;
    const begun = act().finally(() => this.underWay.delete(name));
    this.underWay.set(name, begun);
    return begun;
  }
}
