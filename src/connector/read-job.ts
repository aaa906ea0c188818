import type { z } from 'zod'
import { JobError } from '../host/errors.ts'
import type { Grant } from '../protocol/grant.ts'
import { type EnsureJob, Job, type JobHead } from '../protocol/job.ts'
import { CREATABLE_LOGIN } from '../protocol/primitives.ts'
import { PublicKeyError, parsePublicKey } from '../protocol/public-key.ts'

/** The kinds that this version does. */
const KINDS = new Set<string>(['ensure', 'inspect', 'cleanup'])

/** Paths and rules, never values: a value may be anything at all. */
const describe = (error: z.ZodError): string =>
  error.issues
    .slice(0, 10)
    .map((issue) => `${issue.path.map(String).join('.')}: ${issue.message}`)
    .join('; ')

const parse = (raw: unknown): Job => {
  const job = Job.safeParse(raw)
  if (!job.success) {
    const inGrant = job.error.issues.every((issue) => issue.path[0] === 'grant')
    throw new JobError(inGrant ? 'invalid_grant' : 'invalid_job', describe(job.error))
  }
  return job.data
}

const checkKey = (grant: Grant): void => {
  try {
    parsePublicKey(grant.publicKey)
  } catch (error) {
    if (error instanceof PublicKeyError) throw new JobError('invalid_grant', `grant.publicKey: ${error.message}`)
    throw error
  }
}

const checkGroups = ({ grant, integration }: EnsureJob): void => {
  const missing = grant.groups.filter((group) => !integration.userGroups.includes(group))
  if (missing.length === 0) return
  throw new JobError('group_not_allowed', `not among the integration's user groups: ${missing.join(', ')}`)
}

const checkLogin = ({ grant, server, integration }: EnsureJob): void => {
  if (grant.login === 'root' || grant.login === server.user) {
    throw new JobError('login_system', `${grant.login} is never granted`, { login: grant.login })
  }
  // An adopted login was named by somebody else; one that we make has the stricter name.
  if (integration.policy.existingUser === 'refuse' && !CREATABLE_LOGIN.test(grant.login)) {
    throw new JobError('invalid_grant', 'grant.login: must match ^[a-z_][a-z0-9_-]{0,31}$')
  }
}

/**
 * Reads a job strictly and checks all that can be checked without touching anything. Fails with `unsupported_job`,
 * `invalid_job`, `invalid_grant`, `group_not_allowed` or `login_system`.
 *
 * The rules for a grant that begins are not applied to one that ends: whatever was once allowed can be taken back.
 */
export const readJob = (raw: unknown, head: JobHead): Job => {
  if (!KINDS.has(head.kind)) throw new JobError('unsupported_job', `a job of kind ${JSON.stringify(head.kind)}`)
  const job = parse(raw)
  if (job.kind === 'ensure' && job.grant.state === 'present') {
    checkLogin(job)
    checkKey(job.grant)
    checkGroups(job)
  }
  return job
}
