import { readFileSync } from 'node:fs'
import { z } from 'zod'
import { uninstall } from '../host/host-program.ts'
import type { Clock } from '../observability/clock.ts'
import { Policy, SecretReference, Server } from '../protocol/integration.ts'
import type { InspectJob } from '../protocol/job.ts'
import { keySource } from '../secrets/key-ring.ts'
import { disposeMaterial } from '../secrets/material.ts'
import type { Environment } from '../secrets/network.ts'
import type { LoginKey } from '../secrets/private-key.ts'
import { createTransport } from '../ssh/transport.ts'
import { resolveHost } from './addresses.ts'
import type { LocalConfig } from './config.ts'
import { createGuard } from './guard.ts'
import { watchGuardFile } from './guard-file-watch.ts'
import { hostKeySource } from './known-hosts-file.ts'
import { openStores } from './secret-stores.ts'

/**
 * Leaving one server, by hand and without a control plane. The file says what a job would: the server, and where its
 * key is kept.
 */
export const ServerFile = z.strictObject({
  server: Server.omit({ id: true, jumps: true })
    .extend({ name: z.string().min(1).max(256).default('server') })
    .strict(),
  secretStore: SecretReference,
  /** Only `hostKeys` is of use here. */
  policy: Policy.pick({ hostKeys: true }).prefault({}),
})
export type ServerFile = z.infer<typeof ServerFile>

const problemsOf = (error: z.ZodError): string[] =>
  error.issues.map((issue) => `${issue.path.map(String).join('.') || 'the file'}: ${issue.message}`)

/** Every problem of the file is named by its path in it. */
export const readServerFile = (
  path: string,
): { readonly file: ServerFile | null; readonly problems: readonly string[] } => {
  let content: unknown
  try {
    content = JSON.parse(readFileSync(path, 'utf8'))
  } catch (error) {
    const why =
      error instanceof SyntaxError ? 'is not JSON' : `cannot be read (${(error as NodeJS.ErrnoException).code})`
    return { file: null, problems: [`${path}: ${why}`] }
  }
  const parsed = ServerFile.safeParse(content)
  return parsed.success
    ? { file: parsed.data, problems: [] }
    : { file: null, problems: problemsOf(parsed.error).map((problem) => `${path}: ${problem}`) }
}

export interface UninstallWishes {
  /** Leave the list of uids that were given out: a later connector gives none of them again. */
  readonly keepUids: boolean
  readonly homes: Policy['homes']
}

export interface UninstallDeps extends LocalConfig {
  readonly clock: Clock
  readonly random: (bytes: number) => Buffer
  readonly environment: Environment
}

/** A hundred accounts take a while. */
const RUN_MS = 600_000

/** As the guard knows it: a look at that server with that secret. Whoever runs this here may reach this machine too. */
const asJob = ({ server, secretStore, policy }: ServerFile): InspectJob => ({
  jobId: 'uninstall',
  epoch: 1,
  attempt: 1,
  leaseTtlMs: RUN_MS,
  kind: 'inspect',
  integration: {
    id: 'uninstall',
    name: 'uninstall',
    version: 1,
    secretStore,
    userGroups: [],
    policy: Policy.parse(policy),
  },
  server: { ...server, id: 'server', jumps: [] },
})

/** Read once: there is nothing to remember. */
const readKey = async (file: ServerFile, deps: UninstallDeps): Promise<LoginKey> => {
  const stores = await openStores(deps, deps)
  const source = keySource(deps.clock)
  try {
    const material = await stores.read(file.secretStore)
    try {
      return await source.open(material)
    } finally {
      disposeMaterial(material)
    }
  } finally {
    source.dispose()
    await stores.close()
  }
}

/**
 * Takes everything of ours off a server. Fails with a {@link JobError}: `grants_live` while a grant is not ended, else
 * as a job does.
 */
export const uninstallServer = async (
  file: ServerFile,
  wishes: UninstallWishes,
  deps: UninstallDeps,
): Promise<void> => {
  const { clock, deadlines, secretDirectory, random } = deps
  const hostKeys = hostKeySource(deps.knownHostsFile, clock)
  const limits = deps.guardFile === null ? null : watchGuardFile(deps.guardFile, clock)
  const options = { clock, resolve: resolveHost, resolveTimeoutMs: deadlines.tcpMs, secretDirectory }
  const guard = createGuard({ ...options, allowLoopback: true }, limits)
  const addresses = await guard.admit(asJob(file), new AbortController().signal)
  const key = await readKey(file, deps)
  const { host, port, user } = file.server
  const context = { controlPlaneId: 'uninstall', now: clock.now(), timeoutMs: RUN_MS, random }
  const target = {
    server: { host, port, user, addresses },
    key: { keys: [key], version: 'the only one' },
    rules: hostKeys(file.server, file.policy.hostKeys),
  }
  // It says nothing until it is done.
  const pool = createTransport({ clock, random, deadlines: { ...deadlines, silenceMs: RUN_MS } })
  try {
    await pool.use({ jumps: [], target }, {}, (link) => uninstall(link, context, wishes))
  } finally {
    await pool.close()
  }
}
