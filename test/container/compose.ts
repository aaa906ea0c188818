import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { runLabels } from '../hosts/cleanup.ts'
import { type CommandResult, mustRun, runCommand } from '../hosts/command.ts'
import { hostImage } from '../hosts/image.ts'
import { currentRun, fateOf } from '../hosts/run.ts'
import { scratchDirectory } from '../hosts/scratch.ts'
import { BUILD_MS, root } from './image.ts'

// docker/compose.yaml, under a name and on ports of this run, so that it disturbs nobody. Its containers go with the
// run as the hosts do; its network and volumes, of a run that was killed, when the next run comes here.

const file = join(root, 'docker', 'compose.yaml')

const SERVICES = ['init', 'control-plane', 'connector', 'demo-server'] as const
const VOLUMES = [
  'control-plane-files',
  'control-plane-state',
  'connector-files',
  'connector-state',
  'demo-server-files',
] as const

export type Service = (typeof SERVICES)[number]

export interface Compose {
  readonly project: string
  run(...args: readonly string[]): Promise<CommandResult>
  must(...args: readonly string[]): Promise<string>
  idOf(service: Service): Promise<string>
  /** The port of 127.0.0.1 that it is published on. */
  portOf(service: Service, port: number): Promise<number>
  /** What the project still has of containers, networks and volumes. */
  remains(): Promise<string[]>
}

/** Whichever this machine has: the engine's plugin, or the command of old. */
const findCompose = async (): Promise<readonly [string, ...string[]]> => {
  if ((await runCommand('docker', ['compose', 'version'])).code === 0) return ['docker', 'compose']
  const old = await runCommand('docker-compose', ['version']).catch(() => null)
  if (old?.code !== 0) throw new Error('neither `docker compose` nor docker-compose is here: install one of them')
  return ['docker-compose']
}

const each = <T>(names: readonly string[], value: T): Record<string, T> =>
  Object.fromEntries(names.map((name) => [name, value]))

/** Says whose it is, and lets nothing rise again when the machine restarts. JSON is YAML. */
const writeOverride = (): string => {
  const override = join(scratchDirectory(), 'override.yaml')
  const labels = runLabels()
  const content = {
    services: each(SERVICES, { labels, restart: 'no' }),
    networks: { default: { labels } },
    volumes: each(VOLUMES, { labels }),
  }
  writeFileSync(override, JSON.stringify(content))
  return override
}

export const prepareCompose = async (image: string): Promise<Compose> => {
  const [command, ...first] = await findCompose()
  const project = `apono-test-${currentRun().run}`
  const args = [...first, '-p', project, '-f', file, '-f', writeOverride()]
  const environment = {
    ...process.env,
    APONO_IMAGE: image,
    APONO_DEMO_SERVER_IMAGE: await hostImage(),
    // Any free ones.
    APONO_DEMO_PORT: '',
    APONO_DEMO_SSH_PORT: '',
  }
  const options = { env: environment, timeoutMs: BUILD_MS }
  const ids = new Map<Service, string>()
  const must: Compose['must'] = async (...rest) => mustRun(command, [...args, ...rest], options)
  const list = async (what: string, ...rest: string[]): Promise<string[]> => {
    const filter = `label=com.docker.compose.project=${project}`
    const output = await mustRun('docker', [what, 'ls', '--quiet', ...rest, '--filter', filter])
    return output.split('\n').filter((id) => id !== '')
  }
  return {
    project,
    must,
    run: (...rest) => runCommand(command, [...args, ...rest], options),
    idOf: async (service) => {
      const id = ids.get(service) ?? (await must('ps', '--quiet', '--all', service)).trim()
      ids.set(service, id)
      return id
    },
    portOf: async (service, port) => Number((await must('port', service, String(port))).trim().split(':').at(-1)),
    remains: async () => [...(await list('container', '--all')), ...(await list('network')), ...(await list('volume'))],
  }
}

const listOwned = async (what: 'network' | 'volume'): Promise<string[]> => {
  const [run, machine, hostname] = Object.keys(runLabels())
  const id = what === 'network' ? '{{.ID}}' : '{{.Name}}'
  const format = `${id}|{{.Label "${run}"}}|{{.Label "${machine}"}}|{{.Label "${hostname}"}}`
  const output = await mustRun('docker', [what, 'ls', '--filter', `label=${run}`, '--format', format])
  return output.split('\n')
}

/** Removes the networks and volumes of dead runs; their containers were swept when this run began. */
export const sweepComposeLeftovers = async (): Promise<void> => {
  for (const what of ['network', 'volume'] as const) {
    for (const line of await listOwned(what)) {
      const [id, run, machine, hostname] = line.split('|')
      if (!id || !run || !machine || !hostname) continue
      // One that somebody else removes meanwhile is as good as removed.
      if (fateOf({ run, machine, hostname }) === 'dead') await runCommand('docker', [what, 'rm', id])
    }
  }
}
