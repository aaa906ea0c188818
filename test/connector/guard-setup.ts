import { chmodSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import type { Resolve } from '../../src/connector/addresses.ts'
import { createGuard } from '../../src/connector/guard.ts'
import { type GuardRules, parseGuardFile } from '../../src/connector/guard-file.ts'
import { readJob } from '../../src/connector/read-job.ts'
import type { JobError } from '../../src/host/errors.ts'
import { systemClock } from '../../src/observability/clock.ts'
import { JobHead } from '../../src/protocol/job.ts'
import type { CheckedAddress } from '../../src/ssh/socket.ts'
import { scratchDirectory } from '../hosts/scratch.ts'
import { type JobOptions, job } from './jobs.ts'

// Jobs before a guard that has a file.

export const FILE = '/etc/apono/guard.yaml'

export const rulesOf = (content: object): GuardRules => {
  const read = parseGuardFile(JSON.stringify({ version: 1, ...content }))
  if (!read.ok) throw new Error(read.problems.join('\n'))
  return read.rules
}

export const problemsOf = (content: string | object): readonly string[] => {
  const read = parseGuardFile(typeof content === 'string' ? content : JSON.stringify({ version: 1, ...content }))
  return read.ok ? [] : read.problems
}

export const to =
  (...addresses: string[]): Resolve =>
  async () =>
    addresses.map((address): CheckedAddress => ({ address, family: address.includes(':') ? 6 : 4 }))

export type Asked = JobOptions & { secretStore?: object }

export const jobOf = ({ secretStore, ...options }: Asked) => {
  const raw = job({ secretPath: '/secrets/ssh.json', host: 'db-1', ...options })
  const integration = { ...(raw['integration'] as object), ...(secretStore ? { secretStore } : {}) }
  const cleanup = options.kind === 'cleanup' ? { login: 'dana' } : {}
  return { ...raw, integration, ...cleanup }
}

/** `admitted`, or the code, the message and the hint; and what DNS was asked. */
export const ask = async (
  content: object | null,
  options: Asked,
  resolve = to('10.0.0.5'),
  problems: readonly string[] = [],
): Promise<{ answer: string; hint: string; lookups: string[] }> => {
  const lookups: string[] = []
  const counted: Resolve = (host) => {
    lookups.push(host)
    return resolve(host)
  }
  const limits = content === null ? null : () => ({ path: FILE, rules: rulesOf(content), problems })
  const setting = { clock: systemClock, resolveTimeoutMs: 1000, secretDirectory: '/secrets', allowLoopback: false }
  const guard = createGuard({ ...setting, resolve: counted }, limits)
  const raw = jobOf(options)
  return await guard.admit(readJob(raw, JobHead.parse(raw)), new AbortController().signal).then(
    () => ({ answer: 'admitted', hint: '', lookups }),
    ({ code, message, hint }: JobError) => ({ answer: `${code}: ${message}`, hint, lookups }),
  )
}

export const answerTo = async (...asked: Parameters<typeof ask>): Promise<string> => (await ask(...asked)).answer

/** As an admin would leave it, whatever the umask. */
export const guardFile = (content: string | object): string => {
  const file = path.join(scratchDirectory(), 'guard.yaml')
  writeFileSync(file, typeof content === 'string' ? content : JSON.stringify({ version: 1, ...content }))
  chmodSync(file, 0o644)
  return file
}
