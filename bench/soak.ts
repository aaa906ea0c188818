/**
 * Whether the transport leaks: `npm run soak [-- --minutes 30]`.
 *
 * Jobs and commands on two real servers through a bad network, over and over: connections are made, cut, left idle and
 * closed; a third server refuses everything, and its circuit opens. At each sample all that is under way is waited for,
 * and then every connection closes for being idle: what is held at that moment is held for good. The last third of the
 * samples is compared with the first, the warm-up left out.
 */
import { readdirSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { JobError } from '../src/host/errors.ts'
import type { Pool } from '../src/ssh/pool.ts'
import { removeAtExit, sweepDeadRuns } from '../test/hosts/cleanup.ts'
import { startHost, type TestHost } from '../test/hosts/hosts.ts'
import { sweepScratch } from '../test/hosts/scratch.ts'
import { type FaultProxy, seeded, startFaultProxy } from '../test/ssh/fault-proxy.ts'
import { codeOf, grantFor, hopTo, makePool, routeTo, run, sockets, startWorkbench } from '../test/ssh/workbench.ts'
import { median } from './measure.ts'

const IDLE_MS = 1000
const WORKERS = 4
/** How much more the last third may hold than the first. */
const HEAP_TOLERANCE = { share: 0.1, mebibytes: 1 }
const DESCRIPTOR_TOLERANCE = 2
const TIMER_TOLERANCE = 2
/** What went well since the sample before, at least: a run in which nothing happens proves nothing. */
const LEAST_WELL = 50

interface Sample {
  readonly heap: number
  readonly rss: number
  readonly descriptors: number
  readonly sockets: number
  readonly timers: number
}

setFlagsFromString('--expose-gc')
const collectGarbage = runInNewContext('gc') as () => void

const mebibytes = (bytes: number): number => bytes / 2 ** 20

const sample = async (): Promise<Sample> => {
  // What the first collection lets go of in finalizers, the second one collects.
  for (let round = 0; round < 3; round++) {
    collectGarbage()
    await sleep(50)
  }
  const { heapUsed, rss } = process.memoryUsage()
  return {
    heap: mebibytes(heapUsed),
    rss: mebibytes(rss),
    descriptors: readdirSync('/proc/self/fd').length,
    sockets: sockets(),
    timers: process.getActiveResourcesInfo().filter((name) => name === 'Timeout').length,
  }
}

const random = seeded(1)
const outcomes = new Map<string, number>()
const well = (): number => (outcomes.get('command') ?? 0) + (outcomes.get('succeeded') ?? 0)
const note = (code: string): void => void outcomes.set(code, (outcomes.get(code) ?? 0) + 1)

type Station = Awaited<ReturnType<typeof startStation>>

const startStation = async (host: TestHost, pool: Pool) => {
  const proxy: FaultProxy = await startFaultProxy(host.port, 1, false)
  const bench = await startWorkbench(host, { port: proxy.port, pool })
  const refused = routeTo(hopTo(host, { port: 1 }))
  return { proxy, bench, route: routeTo(hopTo(host, { port: proxy.port })), refused, spoiltAt: performance.now() }
}

/** Three failures in a row open a circuit, and then nothing happens for a while: between two troubles all is well. */
const QUIET_MS = 4000

/** The network gets bad now and then: connections end, and the next one ends at any byte of it. */
const spoil = (station: Station): void => {
  if (performance.now() - station.spoiltAt < QUIET_MS) return
  station.spoiltAt = performance.now()
  const { proxy } = station
  const how = random() < 0.5 ? 'reset' : 'end'
  proxy.stop(how)
  proxy.plan({ cut: { direction: random() < 0.5 ? 'up' : 'down', after: Math.floor(random() * 5000), how } })
}

const cycle = async (station: Station, pool: Pool, turn: number): Promise<void> => {
  spoil(station)
  const grant = grantFor(`soak${Math.floor(random() * 8)}`)
  const command = (route: typeof station.route) =>
    run(pool, route, 'cat', { stdin: 'x'.repeat(50_000) }).then(
      () => note('command'),
      (error: unknown) => note(error instanceof JobError ? error.code : 'a defect'),
    )
  if (turn % 4 === 0) note(codeOf(await station.bench.ensure(grant, random() < 0.5 ? 'present' : 'absent')))
  else await command(turn % 20 === 1 ? station.refused : station.route)
  if (turn % 50 === 49) await sleep(IDLE_MS * 1.5)
}

const work = async (stations: readonly Station[], pool: Pool, until: number): Promise<void> => {
  const worker = async (n: number): Promise<void> => {
    for (let turn = n; performance.now() < until; turn++) {
      const station = stations[turn % stations.length]
      if (station !== undefined) await cycle(station, pool, turn)
    }
  }
  await Promise.all(Array.from({ length: WORKERS }, (_, n) => worker(n * 7)))
  while (pool.stats().open + pool.stats().connecting > 0) await sleep(100)
}

const show = (minutes: number, { heap, rss, descriptors, sockets, timers }: Sample): void => {
  const codes = [...outcomes].map(([code, count]) => `${code} ${count}`).join(', ')
  process.stdout.write(
    `${minutes.toFixed(1).padStart(5)} min  heap ${heap.toFixed(2)} MiB  RSS ${rss.toFixed(0)} MiB  descriptors ${descriptors}  sockets ${sockets}  timers ${timers}  (${codes})\n`,
  )
}

const thirds = (samples: readonly Sample[], of: (one: Sample) => number): readonly [number, number] => {
  const values = samples.map(of)
  const size = Math.floor(values.length / 3)
  return [median(values.slice(0, size)), median(values.slice(-size))]
}

/** What grew beyond its tolerance, in words. */
const grown = (samples: readonly Sample[]): string[] => {
  const [heap, heapAfter] = thirds(samples, (one) => one.heap)
  const allowed = Math.max(heap * HEAP_TOLERANCE.share, HEAP_TOLERANCE.mebibytes)
  const rows: [string, readonly [number, number], number][] = [
    ['heap, MiB', [heap, heapAfter], allowed],
    ['descriptors', thirds(samples, (one) => one.descriptors), DESCRIPTOR_TOLERANCE],
    ['timers', thirds(samples, (one) => one.timers), TIMER_TOLERANCE],
  ]
  return rows.flatMap(([name, [before, after], more]) => {
    const text = `${name}: ${before.toFixed(2)} in the first third, ${after.toFixed(2)} in the last, ${more.toFixed(2)} more allowed`
    process.stdout.write(`${text}\n`)
    return after - before > more ? [text] : []
  })
}

const main = async (): Promise<void> => {
  const { values } = parseArgs({ options: { minutes: { type: 'string', default: '30' } } })
  const minutes = Number(values.minutes)
  if (!(minutes >= 1)) throw new Error('--minutes must be 1 or more')
  removeAtExit()
  sweepScratch()
  await sweepDeadRuns()
  const hosts = await Promise.all([startHost(), startHost()])
  const pool = makePool({}, { idleMs: IDLE_MS })
  const stations = await Promise.all(hosts.map((host) => startStation(host, pool)))
  // Eleven samples at least: one to warm up, and three for each third.
  const everyMs = Math.min(60_000, (minutes * 60_000) / 11)
  const started = performance.now()
  const samples: Sample[] = []
  while (performance.now() - started < minutes * 60_000) {
    const before = well()
    await work(stations, pool, performance.now() + everyMs)
    if (well() - before < LEAST_WELL) throw new Error(`only ${well() - before} went well since the last sample`)
    const one = await sample()
    show((performance.now() - started) / 60_000, one)
    samples.push(one)
  }
  const warm = samples.slice(Math.max(1, Math.floor(samples.length / 10)))
  const problems = grown(warm)
  if (outcomes.has('a defect') || outcomes.has('internal_error')) problems.push('an outcome was a defect')
  if (problems.length > 0) throw new Error(`it leaks: ${problems.join('; ')}`)
}

main().then(
  () => process.exit(0),
  (error: unknown) => {
    process.stderr.write(`soak failed: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}\n`)
    process.exit(1)
  },
)
