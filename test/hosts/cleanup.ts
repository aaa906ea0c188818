import { spawnSync } from 'node:child_process'
import { mustRun, runCommand } from './command.ts'
import { currentRun, fateOf, ownRun, ownsRun } from './run.ts'

// No container outlives its run: a host's stop() removes it at once, the run's end removes what is left
// (also after Ctrl-C), and what a kill -9 left is swept when the next run starts.

const RUN = 'apono.run'
const MACHINE = 'apono.machine'
const HOSTNAME = 'apono.hostname'

export function runLabels(): Record<string, string> {
  const { run, machine, hostname } = currentRun()
  return { [RUN]: run, [MACHINE]: machine, [HOSTNAME]: hostname }
}

export async function removeContainers(ids: readonly string[]): Promise<void> {
  if (ids.length === 0) return
  const { code, stderr } = await runCommand('docker', ['rm', '--force', '--volumes', ...ids])
  // Somebody else removing the same container is as good as us.
  if (code !== 0 && !/No such container|already in progress/.test(stderr)) throw new Error(stderr.trim())
}

/** Removes what dead runs of this machine left; gives the ids removed. */
export async function sweepDeadRuns(): Promise<string[]> {
  const format = `{{.ID}}|{{.State}}|{{.Label "${RUN}"}}|{{.Label "${MACHINE}"}}|{{.Label "${HOSTNAME}"}}`
  const list = await mustRun('docker', ['ps', '--all', '--no-trunc', '--filter', `label=${RUN}`, '--format', format])
  const dead = list.split('\n').flatMap((line) => {
    const [id, state, run, machine, hostname] = line.split('|')
    if (!id || !run || !machine || !hostname || !state) return []
    const fate = fateOf({ run, machine, hostname })
    const leftByReboot = fate === 'unknown' && state === 'exited' && hostname === currentRun().hostname
    return fate === 'dead' || leftByReboot ? [id] : []
  })
  await removeContainers(dead)
  return dead
}

/** Removes every container of this run, also those that are being created meanwhile. */
export function removeOwnRun(): void {
  // Who is interrupted has requests on the way, its own or its workers': look until nothing comes any more.
  let expected = starting > 0
  for (let empty = 0, round = 0; round < 50 && empty < (expected ? 3 : 1); round++) {
    if (round > 0) sleepSync(100)
    const ids = ownContainers()
    empty = ids.length === 0 ? empty + 1 : 0
    expected ||= ids.length > 0
    if (ids.length > 0) spawnSync('docker', ['rm', '--force', '--volumes', ...ids])
  }
}

function ownContainers(): string[] {
  const filter = `label=${RUN}=${ownRun()}`
  const list = spawnSync('docker', ['ps', '--all', '--quiet', '--filter', filter], { encoding: 'utf8' })
  return list.stdout?.split('\n').filter((id) => id !== '') ?? []
}

function sleepSync(milliseconds: number): void {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, milliseconds)
}

let starting = 0

/** Wraps the creation of a container, so that an exit meanwhile waits for it to appear and removes it. */
export async function whileStarting<T>(start: () => Promise<T>): Promise<T> {
  removeAtExit()
  starting++
  try {
    return await start()
  } finally {
    starting--
  }
}

let registered = false

export type RemoveAtExitOptions = {
  /**
   * Default true: SIGINT, SIGTERM and SIGHUP remove the hosts, then end this process as they would have. Say false,
   * before the first host, where this process handles signals itself and ends by `exit`.
   */
  signals?: boolean
}

/** Makes this process remove its run's containers when it ends. A worker leaves that to its run. */
export function removeAtExit({ signals = true }: RemoveAtExitOptions = {}): void {
  if (registered || !ownsRun()) return
  registered = true
  process.on('exit', removeOwnRun)
  if (!signals) return
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
    process.once(signal, () => {
      removeOwnRun()
      process.off('exit', removeOwnRun)
      // Other listeners may be there (a library of testcontainers has some): they must not keep us alive.
      process.removeAllListeners(signal)
      process.kill(process.pid, signal)
    })
  }
}
