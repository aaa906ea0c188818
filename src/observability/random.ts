/** As many unpredictable bytes as asked for. Passed in like the clock, so that tests decide. */
export type Random = (bytes: number) => Buffer
