import type { AddressInfo } from 'node:net'
import net from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'

// The network between connector and sshd, as bad as a test wants it. Bytes always arrive in order and unchanged: it is
// TCP; what may happen to them is that they come late, in other portions, or not at all.

/** `up` goes to the server. */
export type Direction = 'up' | 'down'

/** Reset: RST to both. End: FIN to both. Freeze: nothing passes any more, and nobody is told. */
export type Ending = 'reset' | 'end' | 'freeze'

export type Cut = { direction: Direction; after: number; how: Ending }

/** All may be had at once. */
export type Faults = {
  /** Each way, in milliseconds. */
  delayMs?: number
  /** The share of portions that are held up, as if sent again, and for how long. */
  stalls?: { share: number; ms: readonly [number, number] }
  /** The largest portion, in bytes. */
  portion?: number
  /** Between the portions of one direction: a slow line, or (with portions of one byte) a slow loris. */
  pace?: { direction: Direction; ms: number }
  /** Ends the connection when exactly so many bytes have been passed on in one direction. */
  cut?: Cut
}

export type FaultProxy = {
  port: number
  /** What the next connections meet, the first one first; those after them meet nothing. */
  plan(...faults: readonly Faults[]): void
  /** What those that are open now meet from here on. */
  alter(faults: Faults): void
  /** Where new connections go from now on. */
  lead(port: number): void
  /** Does it to all that are open now. */
  stop(how: Ending): void
  /** Slips bytes to all clients as if the server had sent them. */
  inject(bytes: Buffer): void
  /** Connections that were made, and those whose server's end is still there. */
  count(): number
  servers(): number
  /** What was passed on by the newest connection so far, unless nothing is recorded. */
  passed(direction: Direction): Buffer
  close(): Promise<void>
}

/** The same numbers, from 0 to below 1, for the same seed (mulberry32). */
export const seeded = (seed: number) => {
  let state = seed
  return (): number => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
}

type Line = {
  near: net.Socket
  far: net.Socket
  faults: Faults
  passed: Record<Direction, number>
  recorded: Record<Direction, Buffer[]>
  recording: boolean
  /** Once it is over nothing passes; a frozen one keeps its sockets. */
  over: Ending | null
}

const portions = (chunk: Buffer, most: number): Buffer[] =>
  Array.from({ length: Math.ceil(chunk.length / most) }, (_, n) => chunk.subarray(n * most, (n + 1) * most))

const finish = (line: Line, how: Ending): void => {
  if (line.over !== null) return
  line.over = how
  for (const socket of [line.near, line.far]) {
    if (how === 'reset') socket.resetAndDestroy()
    // `end` sends what was written before; whoever does not answer it is not waited for.
    if (how === 'end') socket.end(() => socket.destroy())
  }
}

/** How long a portion that came at `from` is under way. */
const holdUp = ({ delayMs = 0, stalls }: Faults, random: () => number): number => {
  if (stalls === undefined || random() >= stalls.share) return delayMs
  const [least, most] = stalls.ms
  return delayMs + least + random() * (most - least)
}

/** Passes on one portion, and ends the line where that is due. */
const pass = (line: Line, direction: Direction, portion: Buffer): void => {
  if (line.over !== null) return
  const { cut } = line.faults
  const due = cut?.direction === direction ? cut.after - line.passed[direction] : Number.POSITIVE_INFINITY
  const rest = portion.subarray(0, Math.max(0, due))
  if (rest.length > 0) {
    line.passed[direction] += rest.length
    if (line.recording) line.recorded[direction].push(rest)
    const to = direction === 'up' ? line.far : line.near
    to.write(rest)
  }
  if (cut !== undefined && portion.length >= due) finish(line, cut.how)
}

/** Moves one direction of a line, in order, for as long as it lives. */
const move = (line: Line, direction: Direction, random: () => number): void => {
  const [from, to] = direction === 'up' ? [line.near, line.far] : [line.far, line.near]
  const pace = (): number => (line.faults.pace?.direction === direction ? line.faults.pace.ms : 0)
  let last: Promise<unknown> = Promise.resolve()
  let earliest = 0
  const later = (ms: number, work: () => void): void => {
    earliest = Math.max(earliest, performance.now() + ms)
    const at = earliest
    last = last.then(async () => {
      const wait = at - performance.now()
      if (wait > 0) await sleep(wait, undefined, { ref: false })
      work()
      if (pace() > 0 && line.over === null) await sleep(pace(), undefined, { ref: false })
    })
  }
  from.on('data', (chunk: Buffer) => {
    for (const portion of portions(chunk, line.faults.portion ?? 65_536)) {
      later(holdUp(line.faults, random), () => pass(line, direction, portion))
    }
  })
  from.on('end', () => later(line.faults.delayMs ?? 0, () => line.over ?? to.end()))
  from.on('close', () => later(line.faults.delayMs ?? 0, () => line.over ?? to.destroy()))
}

/** A proxy on a port of 127.0.0.1 that leads to another one there. */
export const startFaultProxy = async (target: number, seed: number, recording = true): Promise<FaultProxy> => {
  const random = seeded(seed)
  const lines = new Set<Line>()
  let planned: Faults[] = []
  let goal = target
  let count = 0
  let newest: Line | undefined
  const begin = (near: net.Socket): void => {
    count++
    const far = net.connect({ host: '127.0.0.1', port: goal, noDelay: true, allowHalfOpen: true })
    const recorded = { up: [], down: [] }
    const faults = planned.shift() ?? {}
    const line: Line = { near, far, faults, passed: { up: 0, down: 0 }, recorded, recording, over: null }
    newest = line
    lines.add(line)
    for (const socket of [near, far]) {
      socket.on('error', () => undefined)
      socket.on('close', () => near.destroyed && far.destroyed && lines.delete(line))
    }
    move(line, 'up', random)
    move(line, 'down', random)
    if (line.faults.cut?.after === 0) finish(line, line.faults.cut.how)
  }
  const server = net.createServer({ noDelay: true, allowHalfOpen: true }, begin)
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', () => resolve()))
  return {
    port: (server.address() as AddressInfo).port,
    plan: (...faults) => {
      planned = [...faults]
    },
    alter: (faults) => {
      for (const line of lines) line.faults = faults
    },
    lead: (port) => {
      goal = port
    },
    stop: (how) => {
      for (const line of lines) finish(line, how)
    },
    inject: (bytes) => {
      for (const { near } of lines) near.write(bytes)
    },
    count: () => count,
    servers: () => [...lines].filter(({ far }) => !far.destroyed).length,
    passed: (direction) => Buffer.concat(newest?.recorded[direction] ?? []),
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve())
        for (const { near, far } of lines) {
          near.destroy()
          far.destroy()
        }
      }),
  }
}

const NEWKEYS = 21
const GCM_TAG = 16

/**
 * Where the packets of one direction of an SSH connection end, the identification line first. Possible because our first
 * choice of cipher, AES-GCM, sends the lengths in the clear.
 */
export const packetEnds = (bytes: Buffer): number[] => {
  const ends = [bytes.indexOf('\n') + 1]
  let tag = 0
  for (;;) {
    const start = ends.at(-1) ?? 0
    if (start + 6 > bytes.length) return ends
    const end = start + 4 + bytes.readUInt32BE(start) + tag
    if (end > bytes.length) return ends
    ends.push(end)
    if (tag === 0 && bytes[start + 5] === NEWKEYS) tag = GCM_TAG
  }
}
