import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import type { Readable } from 'node:stream'

export interface StandaloneProcess {
  readonly url: string
  /** Null but at the very first start over a folder. */
  readonly adminToken: string | null
  readonly secretDirectory: string
  /** SIGTERM; with the exit code. */
  stop(): Promise<number | null>
  /** SIGKILL, as a crash. */
  crash(): Promise<void>
}

const START_MS = 20_000
const READY = /^ready$/

const ANNOUNCED = {
  url: /^listening on (\S+)$/,
  secretDirectory: /^secret files are read from (.+)$/,
  adminToken: /^first admin token, shown only this once: (\S+)$/,
} as const

export interface StandaloneOptions {
  /** Over these, `APONO_LISTEN` is a free port and the log is left out. */
  readonly env?: Readonly<Record<string, string>>
}

/** Starts the shipped command in a process of its own, and reads what it prints for its operator. */
export const startStandaloneProcess = async (
  stateDirectory: string,
  options: StandaloneOptions = {},
): Promise<StandaloneProcess> => {
  const child = spawn(process.execPath, [new URL('../../src/cli.ts', import.meta.url).pathname, 'standalone'], {
    env: {
      ...process.env,
      APONO_STATE_DIR: stateDirectory,
      APONO_LISTEN: '127.0.0.1:0',
      APONO_LOG_LEVEL: 'error',
      ...options.env,
    },
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  const kill = (): void => void child.kill('SIGKILL')
  process.once('exit', kill)
  const exited = once(child, 'exit')
  const deadline = setTimeout(kill, START_MS)
  const found = await readAnnouncements(child.stdout)
  clearTimeout(deadline)
  const { url, secretDirectory, adminToken } = found
  if (!url || !secretDirectory) throw new Error('apono-connector standalone did not start')
  const end = async (signal: 'SIGTERM' | 'SIGKILL'): Promise<number | null> => {
    child.kill(signal)
    await exited
    process.removeListener('exit', kill)
    return child.exitCode
  }
  return {
    url,
    secretDirectory,
    adminToken: adminToken ?? null,
    stop: () => end('SIGTERM'),
    crash: async () => void (await end('SIGKILL')),
  }
}

type Announcements = Partial<Record<keyof typeof ANNOUNCED, string>>

/** Up to the line that is always the last of them. What comes behind it is drained. */
const readAnnouncements = async (output: Readable): Promise<Announcements> => {
  const found: Announcements = {}
  for await (const text of createInterface({ input: output })) {
    for (const [name, pattern] of Object.entries(ANNOUNCED) as [keyof typeof ANNOUNCED, RegExp][]) {
      const value = pattern.exec(text)?.[1]
      if (value !== undefined) found[name] = value
    }
    if (READY.test(text)) break
  }
  output.resume()
  return found
}
