import { type ChildProcess, spawn } from 'node:child_process'
import { TOKEN } from './setup.ts'

// A connector as it is started by `apono-connector connector`, to be ended as processes are.

export type ConnectorProcess = {
  output(): string
  kill(signal: NodeJS.Signals): void
  /** Its exit code; null where a signal ended it. */
  readonly ended: Promise<number | null>
}

const cli = new URL('../../src/cli.ts', import.meta.url).pathname

export const startConnectorProcess = (url: string, environment: Record<string, string>): ConnectorProcess => {
  const child: ChildProcess = spawn(process.execPath, [cli, 'connector'], {
    env: {
      PATH: process.env['PATH'],
      APONO_URL: url,
      APONO_TOKEN: TOKEN,
      APONO_CONNECTOR_ID: 'process',
      APONO_HEALTH_LISTEN: 'off',
      APONO_CLOUD_PROVIDER: 'none',
      ...environment,
    },
  })
  let output = ''
  for (const stream of [child.stdout, child.stderr]) {
    stream?.on('data', (chunk: Buffer) => {
      output += chunk.toString()
    })
  }
  const ended = new Promise<number | null>((resolve) => child.once('exit', (code) => resolve(code)))
  return { output: () => output, kill: (signal) => void child.kill(signal), ended }
}
