import type { Problem } from '../protocol/results.ts'
import { AbsentResult, CleanupResult, InspectResult, ResidueKind } from '../protocol/results.ts'
import { type ErrorCode, errorTable, JobError } from './errors.ts'
import type { HostLink } from './link.ts'
import { all, type Fields, one, wholeNumber } from './reply.ts'
import type { PresentReply, RunContext } from './requests.ts'

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

const readProblem = (line: string): Problem => {
  const [severity, word = '', ...detail] = line.split(' ')
  const code: ErrorCode = Object.hasOwn(errorTable, word) ? (word as ErrorCode) : 'internal_error'
  const text = detail.join(' ')
  return {
    code,
    message: `${errorTable[code].seen}${text === '' ? '' : ` (${text})`}`,
    hint: errorTable[code].hint({ detail: text }),
    severity: severity === 'error' ? 'error' : 'warning',
  }
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

const sudoFlavour = (fields: Fields, user: string): InspectResult['sudo']['flavour'] => {
  if (user === 'root') return 'root'
  return one(fields, 'sudo_version').includes('sudo-rs') ? 'sudo-rs' : 'sudo'
}

export const readInspectReply = (fields: Fields, link: HostLink, context: RunContext): InspectResult => {
  const clock = one(fields, 'clock')
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
    sudo: { ok: true, flavour: sudoFlavour(fields, link.user) },
    tools: all(fields, 'tool'),
    trust: all(fields, 'trust'),
    onHostExpiry: one(fields, 'expiry') === 'full' ? 'full' : 'logins',
    groups: all(fields, 'group').slice(0, MAX_LIST),
    hostKeys: [link.hostKey],
    clockSkewMs: /^\d{13}$/.test(clock) ? Number(clock) - Math.round(context.now) : 0,
    ledger: all(fields, 'ledger').flatMap((line) => readLedgerLine(line) ?? []),
    problems: all(fields, 'problem').map(readProblem),
  })
  if (!parsed.success) throw odd('inspect')
  return parsed.data
}
