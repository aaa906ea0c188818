import { readFileSync } from 'node:fs'
import { isIP } from 'node:net'
import { JobError } from '../host/errors.ts'
import { Job, JobHead } from '../protocol/job.ts'
import { readGuardFile } from './guard-file-read.ts'
import { readJob } from './read-job.ts'
import { firstPlace, judgeJob, type Setting } from './verdict.ts'

/**
 * `apono-connector guard check FILE JOB.json`: what a connector with this guard file would say to this job. Offline: the
 * same code judges as in the connector, and what it would ask DNS is told instead of asked.
 */
export type CheckOutcome =
  | { readonly kind: 'problems'; readonly problems: readonly string[] }
  | { readonly kind: 'admitted' | 'denied' | 'depends'; readonly text: string }

type ReadCheck<T> =
  | { readonly value: T; readonly problems: readonly [] }
  | { readonly value: null; readonly problems: readonly string[] }

const refused = (problems: readonly string[]): ReadCheck<never> => ({ value: null, problems })

const readJson = (path: string): ReadCheck<unknown> => {
  try {
    return { value: JSON.parse(readFileSync(path, 'utf8')), problems: [] }
  } catch (error) {
    const why =
      error instanceof SyntaxError ? 'is not JSON' : `cannot be read (${(error as NodeJS.ErrnoException).code})`
    return refused([why])
  }
}

/** Of a member, which somebody else may have named: it is shown in a terminal. */
const nameOf = (path: readonly PropertyKey[]): string =>
  path.map((part) => String(part).replace(/[^\x20-\x7e]/g, '?')).join('.') || 'the job'

/** By the schema first, which names all problems, then as a connector reads it. */
const parseJob = (raw: unknown): ReadCheck<Job> => {
  const parsed = Job.safeParse(raw)
  if (!parsed.success) {
    return refused(parsed.error.issues.map(({ path, message }) => `${nameOf(path)}: ${message}`))
  }
  try {
    return { value: readJob(raw, JobHead.parse(raw)), problems: [] }
  } catch (error) {
    if (error instanceof JobError) return refused([`${error.code}: ${error.message}`])
    throw error
  }
}

const readJobFile = (path: string): ReadCheck<Job> => {
  const raw = readJson(path)
  return raw.problems.length > 0 ? refused(raw.problems) : parseJob(raw.value)
}

const lookedUp = (host: string): string => `${host} is looked up when the job runs`

const admitted = (job: Job): string => {
  const { host } = firstPlace(job)
  if (isIP(host) !== 0) return 'admitted'
  return `admitted\n(${lookedUp(host)}: if it is link-local or the connector's own machine, it is denied)`
}

const judge = (job: Job, setting: Setting): CheckOutcome => {
  const verdict = judgeJob(job, setting)
  if (verdict.denied !== null) {
    return { kind: 'denied', text: `denied_by_guard: ${verdict.denied.message}\n${verdict.denied.hint}` }
  }
  if (verdict.networks === null) return { kind: 'admitted', text: admitted(job) }
  const places = verdict.networks.map(({ text }) => text).join(' or ')
  return { kind: 'depends', text: `depends: ${lookedUp(firstPlace(job).host)}; every address must be in ${places}` }
}

export const checkGuard = (
  file: string,
  jobFile: string,
  setting: Pick<Setting, 'secretDirectory' | 'now'>,
): CheckOutcome => {
  const guard = readGuardFile(file)
  const job = readJobFile(jobFile)
  const ofGuard = guard.ok ? [] : guard.problems
  const problems = [...ofGuard.map((one) => `${file}: ${one}`), ...job.problems.map((one) => `${jobFile}: ${one}`)]
  if (!guard.ok || job.value === null) return { kind: 'problems', problems }
  const limits = { path: file, rules: guard.rules, problems: [] }
  return judge(job.value, { ...setting, allowLoopback: false, limits })
}
