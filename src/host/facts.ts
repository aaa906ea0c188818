import { AccountName } from '../protocol/primitives.ts'
import type { Problem } from '../protocol/results.ts'
import { AbsentResult, CleanupResult, InspectResult, ResidueKind } from '../protocol/results.ts'
import { type ErrorCode, type ErrorFacts, errorTable, JobError } from './errors.ts'
import type { HostLink } from './link.ts'
import { all, type Fields, one, wholeNumber } from './reply.ts'
import type { BecomingRoot, PresentReply, RunContext } from './requests.ts'

/** From the program's fields to the shapes of the protocol. A field that is missing or odd never becomes a success. */

const MAX_LIST = 1000

const isTrue = (fields: Fields, name: string): boolean => one(fields, name) === 'true'

const odd = (what: string): JobError => new JobError('interrupted', `the program's answer is not whole: ${what}`)

export const readPresentReply = (fields: Fields): PresentReply => ({
  hostId: one(fields, 'host_id'),
  uid: wholeNumber(fields, 'uid'),
  createdLogin: isTrue(fields, 'created'),
  groupsAdded: all(fields, 'group_added'),
  trust: one(fields, 'trust') === 'home' ? 'home' : 'root_file',
  onHostExpiry: one(fields, 'expiry') === 'full' ? 'full' : 'logins',
  assurance: one(fields, 'assurance') === 'observed' ? 'observed' : 'root_was_possible',
  changed: isTrue(fields, 'changed'),
})

const readResidue = (line: string): AbsentResult['residue'][number] => {
  const [kind, removed, ...detail] = line.split(' ')
  const known = ResidueKind.safeParse(kind)
  if (!known.success) throw odd('residue')
  return { kind: known.data, removed: removed === 'true', detail: detail.join(' ') }
}

export const readAbsentReply = (fields: Fields, login: string): AbsentResult => {
  const parsed = AbsentResult.safeParse({
    hostId: one(fields, 'host_id'),
    login,
    groupsRemoved: all(fields, 'group_removed'),
    sessionsEnded: one(fields, 'sessions_ended') === 'none' ? null : wholeNumber(fields, 'sessions_ended'),
    processesLeft: wholeNumber(fields, 'processes_left'),
    account: one(fields, 'account'),
    changed: isTrue(fields, 'changed'),
    assurance: one(fields, 'assurance'),
    residue: all(fields, 'residue').slice(0, MAX_LIST).map(readResidue),
  })
  if (!parsed.success) throw odd('absent')
  return parsed.data
}

export const readCleanupReply = (fields: Fields, login: string): CleanupResult => {
  const home = one(fields, 'home')
  const parsed = CleanupResult.safeParse({
    hostId: one(fields, 'host_id') || null,
    login,
    account: one(fields, 'account'),
    homeArchive: home === '-' ? null : home,
    changed: isTrue(fields, 'changed'),
  })
  if (!parsed.success) throw odd('cleanup')
  return parsed.data
}

/** What the reading of an inspection needs beside the program's own words. */
export interface Inspection {
  readonly link: HostLink
  readonly context: RunContext
  readonly facts: ErrorFacts
  readonly by: BecomingRoot
}

/** A problem by its place in the error table. `detail` goes into the message, in brackets, and to the hint. */
export const problem = (
  severity: Problem['severity'],
  code: ErrorCode,
  detail: string,
  facts: ErrorFacts,
): Problem => ({
  code,
  message: `${errorTable[code].seen}${detail === '' ? '' : ` (${detail})`}`,
  hint: errorTable[code].hint({ ...facts, detail }),
  severity,
})

const readProblem = (line: string, facts: ErrorFacts): Problem => {
  const [severity, word = '', ...detail] = line.split(' ')
  const code: ErrorCode = Object.hasOwn(errorTable, word) ? (word as ErrorCode) : 'internal_error'
  return problem(severity === 'error' ? 'error' : 'warning', code, detail.join(' '), facts)
}

const readLedgerLine = (line: string): InspectResult['ledger'][number] | undefined => {
  const [name = '', generation, epoch, state, intact] = line.split(' ')
  const entry = {
    grantId: name.slice(name.indexOf('.') + 1),
    generation: Number(generation),
    epoch: Number(epoch),
    state,
    intact: intact === 'true',
  }
  const parsed = InspectResult.shape.ledger.element.safeParse(entry)
  return parsed.success ? parsed.data : undefined
}

const sudoFlavour = (fields: Fields, by: BecomingRoot): InspectResult['sudo']['flavour'] =>
  by === 'sudo' && one(fields, 'sudo_version').includes('sudo-rs') ? 'sudo-rs' : by

/** Whether a ledger line is of a grant that is still wanted or not yet ended: the last that may be cut off. */
const isLive = ({ state }: InspectResult['ledger'][number]): boolean => state !== 'absent'

const readLedger = (fields: Fields): InspectResult['ledger'] => {
  const entries = all(fields, 'ledger').flatMap((line) => readLedgerLine(line) ?? [])
  return [...entries.filter(isLive), ...entries.filter((entry) => !isLive(entry))]
}

const MAX_SKEW_MS = 60_000

const skewOf = (fields: Fields, context: RunContext): number => {
  const clock = one(fields, 'clock')
  return /^\d{13}$/.test(clock) ? Number(clock) - Math.round(context.now) : 0
}

const readProblems = (fields: Fields, { facts, context }: Inspection, cut: readonly string[]): Problem[] => {
  const skew = skewOf(fields, context)
  const clock = Math.abs(skew) > MAX_SKEW_MS ? [`${Math.round(skew / 1000)} s`] : []
  return [
    ...clock.map((text) => problem('error', 'clock_skew', text, facts)),
    ...all(fields, 'problem').map((line) => readProblem(line, facts)),
    ...cut.map((what) => problem('warning', 'list_cut', what, facts)),
  ].slice(0, MAX_LIST)
}

export const readInspectReply = (fields: Fields, inspection: Inspection): InspectResult => {
  const { link, context, by } = inspection
  // Names that the protocol does not know can't be in a grant either.
  const groups = all(fields, 'group').filter((name) => AccountName.safeParse(name).success)
  const ledger = readLedger(fields)
  const cut = Object.entries({ groups, ledger }).flatMap(([name, list]) => (list.length > MAX_LIST ? [name] : []))
  const parsed = InspectResult.safeParse({
    hostId: fields.get('host_id')?.[0] ?? null,
    os: {
      id: one(fields, 'os_ID'),
      versionId: one(fields, 'os_VERSION_ID'),
      prettyName: one(fields, 'os_PRETTY_NAME'),
      kernel: one(fields, 'kernel'),
    },
    ssh: {
      version: link.serverSoftware.slice(0, 256),
      usePam: one(fields, 'use_pam') === 'yes',
      authorizedKeysFile: all(fields, 'authorized_keys_file'),
    },
    sudo: { ok: true, flavour: sudoFlavour(fields, by) },
    tools: all(fields, 'tool'),
    trust: all(fields, 'trust'),
    onHostExpiry: one(fields, 'expiry') === 'full' ? 'full' : 'logins',
    groups: groups.slice(0, MAX_LIST),
    hostKeys: [link.hostKey],
    clockSkewMs: skewOf(fields, context),
    ledger: ledger.slice(0, MAX_LIST),
    problems: readProblems(fields, inspection, cut),
  })
  if (!parsed.success) throw odd('inspect')
  return parsed.data
}
