import { createHash } from 'node:crypto'
import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { mustRun, runCommand } from './command.ts'

// The images of test hosts, built when their content or base changed and found by their tag otherwise.

const root = join(import.meta.dirname, '..', '..')
const hosts = join(root, 'docker', 'hosts')

/** The image of the default kind, set once by the run for its workers. */
export const IMAGE_VARIABLE = 'APONO_TEST_IMAGE'

export const DEFAULT_BASE = 'debian:bookworm-slim'

/** How a kind of host is made: a folder of docker/hosts/ with its Dockerfile, on a public base image or another kind. */
type Recipe = { folder: string; run?: RunOptions } & ({ base: string } | { on: HostKind })

/** What a kind needs from the engine beyond an unprivileged container with an init. */
export type RunOptions = {
  /** False where the command is an init itself. */
  init?: false
  /** Mount options by path. */
  tmpfs?: Readonly<Record<string, string>>
  /** Paths of the engine's machine, under the same name inside, read-only. */
  binds?: readonly string[]
  capabilities?: readonly string[]
  securityOptions?: readonly string[]
  /** How many processes it may have; default: any number. */
  processes?: number
  /** Where sshd logs, if not to the container's output: a command inside. */
  log?: readonly string[]
}

/** As systemd itself asks of a container's host; not privileged. */
const BOOTED: RunOptions = {
  init: false,
  tmpfs: { '/run': '', '/run/lock': '', '/tmp': 'exec' },
  binds: ['/sys/fs/cgroup'],
  capabilities: ['SYS_ADMIN'],
  securityOptions: ['seccomp=unconfined', 'apparmor=unconfined'],
  log: ['journalctl', '--no-pager', '--output=cat', '--unit=ssh'],
}

export type HostKind = 'debian' | 'systemd'

const recipes: Readonly<Record<HostKind, Recipe>> = {
  debian: { folder: 'debian', base: DEFAULT_BASE },
  systemd: { folder: 'systemd', on: 'debian', run: BOOTED },
}

const images = new Map<HostKind, Promise<string>>()

/** The name of an image that is there. */
export function hostImage(kind: HostKind = 'debian'): Promise<string> {
  const known = images.get(kind) ?? fromRun(kind) ?? build(kind)
  images.set(kind, known)
  return known
}

/** How hosts of this kind are run, and one of them that needs more. */
export function runOptions(kind: HostKind = 'debian', more: RunOptions = {}): RunOptions {
  const { tmpfs, binds = [], capabilities = [], securityOptions = [], ...rest } = recipes[kind].run ?? {}
  return {
    ...rest,
    ...more,
    tmpfs: { ...tmpfs, ...more.tmpfs },
    binds: [...binds, ...(more.binds ?? [])],
    capabilities: [...capabilities, ...(more.capabilities ?? [])],
    securityOptions: [...securityOptions, ...(more.securityOptions ?? [])],
  }
}

function fromRun(kind: HostKind): Promise<string> | undefined {
  const image = process.env[IMAGE_VARIABLE]
  return kind === 'debian' && image ? Promise.resolve(image) : undefined
}

async function build(kind: HostKind): Promise<string> {
  const recipe = recipes[kind]
  const base = 'on' in recipe ? await hostImage(recipe.on) : await baseImage(recipe.base)
  const context = join(hosts, recipe.folder)
  const baseId = await mustRun('docker', ['image', 'inspect', '--format', '{{.Id}}', base])
  const tag = `apono-local/host-${kind}:${await contentHash(context, baseId.trim())}`
  const present = await runCommand('docker', ['image', 'inspect', '--format', '{{.Id}}', tag])
  if (present.code === 0) return tag
  process.stderr.write(`test hosts: building ${tag} on ${base}\n`)
  await mustRun('docker', ['build', '--quiet', '--build-arg', `BASE=${base}`, '--tag', tag, context], {
    timeoutMs: 600_000,
  })
  return tag
}

async function baseImage(publicBase: string): Promise<string> {
  const chosen = process.env['APONO_BASE_DEBIAN']
  if (publicBase === DEFAULT_BASE && chosen) return chosen
  const script = join(root, 'docker', 'base-images.sh')
  const output = await mustRun('sh', [script, publicBase], { timeoutMs: 900_000, progress: true })
  const line = output.trim().split('\n').at(-1) ?? ''
  return line.slice(line.indexOf('=') + 1)
}

async function contentHash(context: string, baseId: string): Promise<string> {
  const hash = createHash('sha256').update(baseId)
  for (const name of (await readdir(context)).sort()) {
    hash.update(`\0${name}\0`).update(await readFile(join(context, name)))
  }
  return hash.digest('hex').slice(0, 16)
}
