import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { createInterface } from 'node:readline'

export interface StandaloneProcess {
  readonly url: string
  readonly adminToken: string
  readonly secretDirectory: string
  /** As it would be typed. */
  readonly commandLine: string
  stop(): Promise<void>
}

const START_MS = 20_000

const ANNOUNCED = {
  url: /^listening on (\S+)$/,
  secretDirectory: /^secret files are read from (.+)$/,
  adminToken: /^first admin token, shown only this once: (\S+)$/,
} as const

/** Starts the shipped command in a process of its own, and reads what it prints for its operator. */
export const startStandaloneProcess = async (stateDirectory: string): Promise<StandaloneProcess> => {
  const child = spawn(process.execPath, [new URL('../src/cli.ts', import.meta.url).pathname, 'standalone'], {
    env: { ...process.env, APONO_STATE_DIR: stateDirectory, APONO_LISTEN: '127.0.0.1:0', APONO_LOG_LEVEL: 'warn' },
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  process.on('exit', () => child.kill('SIGKILL'))
  const found: Partial<Record<keyof typeof ANNOUNCED, string>> = {}
  const deadline = setTimeout(() => child.kill('SIGKILL'), START_MS)
  for await (const text of createInterface({ input: child.stdout })) {
    for (const [name, pattern] of Object.entries(ANNOUNCED) as [keyof typeof ANNOUNCED, RegExp][]) {
      const value = pattern.exec(text)?.[1]
      if (value !== undefined) found[name] = value
    }
    if (found.url && found.secretDirectory && found.adminToken) break
  }
  clearTimeout(deadline)
  child.stdout.resume()
  const { url, secretDirectory, adminToken } = found
  if (!url || !secretDirectory || !adminToken) throw new Error('apono-connector standalone did not start')
  return {
    url,
    secretDirectory,
    adminToken,
    commandLine: 'apono-connector standalone',
    stop: async () => {
      child.kill('SIGTERM')
      if (child.exitCode === null) await once(child, 'exit')
    },
  }
}
