import { setTimeout as sleep } from 'node:timers/promises'
import { runLabels, whileStarting } from '../hosts/cleanup.ts'
import { mustRun, runCommand } from '../hosts/command.ts'

// Containers of the shipped image as the engine sees them. They belong to the run (hosts/cleanup.ts), like the hosts.

/** What a manifest for production says, and what the image must be able to live with. */
export const HARDENED = ['--read-only', '--cap-drop', 'ALL', '--security-opt', 'no-new-privileges'] as const

export interface Inspected {
  readonly Name: string
  readonly Config: { readonly User: string; readonly StopTimeout?: number }
  readonly HostConfig: {
    readonly ReadonlyRootfs: boolean
    readonly CapDrop: readonly string[] | null
    readonly SecurityOpt: readonly string[] | null
    readonly Init: boolean | null
  }
  readonly NetworkSettings: {
    readonly Ports: Readonly<Record<string, readonly { HostIp: string; HostPort: string }[] | null>>
  }
  readonly State: {
    readonly Status: string
    readonly ExitCode: number
    readonly Health?: { readonly Status: string; readonly Log: readonly { readonly Output: string }[] }
  }
}

export const inspect = async (id: string): Promise<Inspected> => {
  const [inspected]: Inspected[] = JSON.parse(await mustRun('docker', ['inspect', id]))
  if (inspected === undefined) throw new Error(`the engine does not know ${id}`)
  return inspected
}

/** Starts a container and gives its id. */
export const start = (image: string, options: readonly string[], command: readonly string[]): Promise<string> =>
  whileStarting(async () => {
    const labels = Object.entries(runLabels()).flatMap(([name, value]) => ['--label', `${name}=${value}`])
    return (await mustRun('docker', ['run', '--detach', ...labels, ...options, image, ...command])).trim()
  })

/** What it has written so far, to both streams. */
export const logOf = async (id: string): Promise<string> => {
  const { stdout, stderr } = await runCommand('docker', ['logs', id])
  return stdout + stderr
}

export const exec = (id: string, command: readonly string[]) => runCommand('docker', ['exec', id, ...command])

const HEALTH_PATIENCE_MS = 60_000

/** Waits until the container's HEALTHCHECK has decided. */
export const healthOf = async (id: string): Promise<string> => {
  const deadline = performance.now() + HEALTH_PATIENCE_MS
  for (;;) {
    const { State } = await inspect(id)
    const status = State.Health?.Status ?? 'without a health check'
    const decided = status !== 'starting' || State.Status !== 'running'
    if (decided || performance.now() > deadline) return State.Status === 'running' ? status : State.Status
    await sleep(200)
  }
}

/** For a test that looks how long it takes, and is to see it when that is too long. */
export const STOP_MS = 60_000

/** Sends SIGTERM and waits for the end, at most as long as manifests give it. */
export const terminate = async (id: string): Promise<{ exitCode: number; seconds: number }> => {
  const begun = performance.now()
  await mustRun('docker', ['stop', '--time', '35', id])
  const { State } = await inspect(id)
  return { exitCode: State.ExitCode, seconds: (performance.now() - begun) / 1000 }
}
