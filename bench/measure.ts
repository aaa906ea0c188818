export interface Figure {
  readonly name: string
  /** Ours; a median. */
  readonly value: number
  readonly unit: 'ms' | 'MiB' | 'bytes' | '1/s'
  /** What it is compared with. */
  readonly peer: string
  readonly peerValue: number
  /** Ours divided by the peer's; smaller is better. */
  readonly ratio: number
}

/** Yields the figures whose name begins with `only`, and does no work for the others. */
export type Subject = (only: string) => AsyncGenerator<Figure>

/** Whether any of the names, or of the names that begin like it, is asked for by `only`. */
export const asked = (only: string, ...names: readonly string[]): boolean =>
  names.some((name) => name.startsWith(only) || only.startsWith(name))

export const median = (values: readonly number[]): number => {
  const sorted = [...values].sort((a, b) => a - b)
  const middle = sorted.length >> 1
  const [low = 0, high = 0] = sorted.length % 2 === 1 ? [sorted[middle], sorted[middle]] : sorted.slice(middle - 1)
  return (low + high) / 2
}

export const timed = async (run: () => Promise<unknown>): Promise<number> => {
  const started = performance.now()
  await run()
  return performance.now() - started
}

export interface Pair {
  readonly name: string
  readonly peer: string
  readonly ours: () => Promise<unknown>
  readonly theirs: () => Promise<unknown>
  readonly rounds: number
  /** Before each round, not counted. */
  readonly prepare?: () => Promise<unknown>
}

/** In turn, so that a machine that slows down slows both; the first round warms up and is not counted. */
export const compare = async ({ name, peer, ours, theirs, rounds, prepare }: Pair): Promise<Figure> => {
  const [mine, others]: [number[], number[]] = [[], []]
  for (let round = 0; round <= rounds; round++) {
    await prepare?.()
    const [a, b] = [await timed(ours), await timed(theirs)]
    if (round === 0) continue
    mine.push(a)
    others.push(b)
  }
  const [value, peerValue] = [median(mine), median(others)]
  return { name, value, unit: 'ms', peer, peerValue, ratio: value / peerValue }
}

/** For what has no peer: the peer's value is what we set ourselves as the limit. */
export const againstTarget = (name: string, value: number, unit: Figure['unit'], target: number): Figure => ({
  name,
  value,
  unit,
  peer: 'no peer: our own limit',
  peerValue: target,
  ratio: value / target,
})
