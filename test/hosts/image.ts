import { createHash } from 'node:crypto'
import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { baseImage } from './bases.ts'
import { mustRun, runCommand } from './command.ts'
import { type HostKind, type RunOptions, recipes } from './kinds.ts'

// The images of test hosts, built when their content or base changed and found by their tag otherwise.

const hosts = join(import.meta.dirname, '..', '..', 'docker', 'hosts')

/** The image of the default kind, set once by the run for its workers. */
export const IMAGE_VARIABLE = 'APONO_TEST_IMAGE'

const images = new Map<HostKind, Promise<string>>()

/** The name of an image that is there. */
export function hostImage(kind: HostKind = 'debian'): Promise<string> {
  const known = images.get(kind) ?? fromRun(kind) ?? build(kind)
  images.set(kind, known)
  return known
}

/** How hosts of this kind are run, with what one of them needs beyond that. */
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

async function contentHash(context: string, baseId: string): Promise<string> {
  const hash = createHash('sha256').update(baseId)
  for (const name of (await readdir(context)).sort()) {
    hash.update(`\0${name}\0`).update(await readFile(join(context, name)))
  }
  return hash.digest('hex').slice(0, 16)
}
