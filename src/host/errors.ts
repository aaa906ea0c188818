import { accessErrors } from './access-errors.ts'
import { type ErrorEntry, type ErrorFacts, forOurLogins } from './error-entry.ts'
import { problemErrors } from './problem-errors.ts'

export type { ErrorFacts, FixedBy } from './error-entry.ts'

/**
 * Everything that can go wrong with a job, in one table: what was seen, whether trying again by itself can help, who
 * can mend it, and how. Codes are stable; people search for them and control planes decide on them.
 *
 * What goes wrong before our program begins is in access-errors.ts, what only a look at the server finds in
 * problem-errors.ts.
 */
export const errorTable = {
  // The job itself.
  invalid_grant: {
    retryable: false,
    fixedBy: 'control plane admin',
    seen: 'a name, key or time in the grant is outside the allow-list; no connection was opened',
    hint: () =>
      'Logins and groups match ^[A-Za-z_][A-Za-z0-9._-]{0,31}$; see docs/connector-protocol.md, section Grant.',
  },
  invalid_job: {
    retryable: false,
    fixedBy: 'control plane admin',
    seen: 'the job does not fit the protocol; no connection was opened',
    hint: () => 'The control plane sent something that protocol v1 does not allow. Report it to whoever runs it.',
  },
  unsupported_job: {
    retryable: false,
    fixedBy: 'connector admin',
    seen: 'a kind of job that this version does not know',
    hint: () => 'Update the connector.',
  },
  cancelled: {
    retryable: true,
    fixedBy: 'nobody',
    seen: 'the job was called off, or its lease ended, before the next side effect',
    hint: () => 'Nothing to do: the control plane hands the job out again if it is still wanted.',
  },
  denied_by_guard: {
    retryable: false,
    fixedBy: 'connector admin',
    seen: "the customer's own limits on the connector do not allow it",
    hint: (facts) =>
      facts.detail ?? 'Widen APONO_GUARD_FILE on the connector if this should be allowed (docs/guard.md).',
  },
  guard_file_unusable: {
    retryable: true,
    fixedBy: 'connector admin',
    seen: 'the guard file of the connector cannot be read whole; until it can, only ends of grants are done',
    hint: (facts) =>
      facts.detail ?? 'Mend APONO_GUARD_FILE on the connector; "apono-connector guard check" names every problem.',
  },
  internal_error: {
    retryable: true,
    fixedBy: 'nobody',
    seen: 'a defect in the connector',
    hint: () => 'Please report it with the log lines of this job.',
  },

  // The connector's private key.
  secret_store_mismatch: {
    retryable: false,
    fixedBy: 'control plane admin',
    seen: 'the integration names a store that this connector cannot read',
    hint: (facts) => facts.detail ?? 'Keep the secret in a store of the cloud that the connector runs in.',
  },
  secret_not_found: {
    retryable: true,
    fixedBy: 'connector admin',
    seen: 'the store has no secret of that name',
    hint: (facts) =>
      `Create the secret with the key base64_private_key, or correct its name. ${facts.detail ?? ''}`.trim(),
  },
  secret_access_denied: {
    retryable: true,
    fixedBy: 'connector admin',
    seen: 'the connector may not read the secret',
    hint: (facts) => facts.detail ?? 'Allow the connector to read the secret.',
  },
  secret_malformed: {
    retryable: true,
    fixedBy: 'connector admin',
    seen: 'the secret is not a JSON object with a base64 private key, or the key cannot be opened',
    hint: (facts) =>
      facts.detail ??
      'Store {"base64_private_key": "..."}; its value is the output of: cat /PATH-TO-KEY/key.pem | base64',
  },
  secret_store_unreachable: {
    retryable: true,
    fixedBy: 'connector admin',
    seen: 'the store did not answer',
    hint: (facts) => facts.detail ?? "Check the connector's network path to the store.",
  },

  ...accessErrors,

  // What the program found there.
  host_busy: {
    retryable: true,
    fixedBy: 'nobody',
    seen: "the ledger's lock, or the lock of the account files, was held for too long, or no process could be started",
    hint: () =>
      'Another tool is changing accounts on that server, or its limit of processes is reached. The job is tried again.',
  },
  clock_skew: {
    retryable: true,
    fixedBy: 'server admin',
    seen: "the server's clock is more than 60 s off the connector's",
    hint: () =>
      "Correct the server's clock (chrony, systemd-timesyncd). Until then certificates would be valid at the wrong time.",
  },
  connector_clock_skew: {
    retryable: true,
    fixedBy: 'connector admin',
    seen: "the connector's clock and the control plane's are more than 60 s apart; no access is given until they agree",
    hint: () => 'Correct the clocks of both machines (chrony, systemd-timesyncd). Ends of grants go on meanwhile.',
  },
  expired: {
    retryable: false,
    fixedBy: 'requester',
    seen: "the grant's end has passed on the server",
    hint: () => 'Request access again.',
  },
  superseded: {
    retryable: false,
    fixedBy: 'nobody',
    seen: 'the ledger on the server holds a newer state of this grant',
    hint: () => 'Nothing to do: newer work overtook this job.',
  },
  wrong_host: {
    retryable: false,
    fixedBy: 'control plane admin',
    seen: 'another machine answers at this address than the one the grant was made on',
    hint: () => 'If the server was replaced, end the grant with abandon and request anew; otherwise check the address.',
  },
  ledger_foreign: {
    retryable: false,
    fixedBy: 'server admin',
    seen: 'the ledger was made on another machine (a cloned image); its logins were expired',
    hint: (facts) =>
      `On a machine that was meant to be cloned, remove ${facts.detail ?? 'the ledger folder'} there and try again.`,
  },
  ledger_newer: {
    retryable: false,
    fixedBy: 'connector admin',
    seen: 'the ledger was written by a newer connector',
    hint: () => 'Update this connector.',
  },
  ledger_lost: {
    retryable: true,
    fixedBy: 'nobody',
    seen: 'the grant should be on the server but its ledger does not know it',
    hint: () => 'The control plane issues the certificate again.',
  },
  ledger_unsafe: {
    retryable: false,
    fixedBy: 'server admin',
    seen: 'the ledger or lock folder is not a directory that only root can write',
    hint: (facts) => `On the server, look at ${facts.detail ?? 'the folder'}: someone else made it or changed it.`,
  },
  login_taken: {
    retryable: false,
    fixedBy: 'control plane admin',
    seen: 'the login belongs to another person or another control plane',
    hint: (facts) => `Give this person another login than ${facts.login ?? 'this one'}.`,
  },
  login_exists: {
    retryable: false,
    fixedBy: 'control plane admin',
    seen: 'an account of that name exists that we did not make',
    hint: () =>
      'Give the person another login. If the account was ours and somebody changed or deleted it by hand, remove what is left of it (passwd, group).',
  },
  login_foreign: {
    retryable: false,
    fixedBy: 'control plane admin',
    seen: 'the name belongs to a directory user (LDAP, SSSD)',
    hint: () => 'Give the person a login that the directory does not have.',
  },
  login_system: {
    retryable: false,
    fixedBy: 'control plane admin',
    seen: 'a system account, a shared uid, root or the connection user',
    hint: () => 'Such accounts are never used, whatever the policy.',
  },
  home_exists: {
    retryable: false,
    fixedBy: 'server admin',
    seen: "the login's home path already exists",
    hint: (facts) =>
      `Move ${facts.detail ?? 'it'} away on the server: an old home may hold keys that would let someone in.`,
  },
  shell_missing: {
    retryable: false,
    fixedBy: 'server admin',
    seen: 'the shell of the policy is not installed or not in /etc/shells',
    hint: (facts) =>
      `Install ${facts.detail ?? 'the shell'} and list it in /etc/shells, or choose another one in the policy.`,
  },
  uid_range_full: {
    retryable: false,
    fixedBy: 'control plane admin',
    seen: 'no uid of the range is free',
    hint: () => 'Widen uidRange in the policy: a uid is never used twice.',
  },
  group_missing: {
    retryable: false,
    fixedBy: 'server admin',
    seen: 'a group of the grant does not exist; nothing was changed',
    hint: (facts) => `Create it on the server (groupadd ${facts.detail ?? 'NAME'}), or take it off the integration.`,
  },
  group_foreign: {
    retryable: false,
    fixedBy: 'server admin',
    seen: 'a group of the grant comes from a directory, and the login is not in it there',
    hint: (facts) => `Add the login to ${facts.detail ?? 'the group'} in the directory: local tools cannot.`,
  },
  group_not_allowed: {
    retryable: false,
    fixedBy: 'control plane admin',
    seen: "a group of the grant is not among the integration's userGroups; no connection was opened",
    hint: () => "Add it to the integration's user groups.",
  },
  group_change_failed: {
    retryable: true,
    fixedBy: 'server admin',
    seen: 'the membership was not there when it was read back',
    hint: () => 'Another tool changes /etc/group at the same time, or it is read-only.',
  },
  account_change_failed: {
    retryable: true,
    fixedBy: 'server admin',
    seen: 'useradd or usermod failed',
    hint: (facts) => `On the server: ${facts.detail ?? 'see its log'}`,
  },
  read_only: {
    retryable: false,
    fixedBy: 'server admin',
    seen: 'a folder that must be written is read-only',
    hint: (facts) => {
      const path = facts.detail ?? 'it'
      return `Make ${path} writable on the server: findmnt -T ${path}; lsattr -d ${path}; then mount -o remount,rw or chattr -i`
    },
  },
  tool_missing: {
    retryable: false,
    fixedBy: 'server admin',
    seen: 'a command that the program needs is missing',
    hint: (facts) => `Install ${facts.detail ?? 'it'} on the server.`,
  },
  sshd_refused_config: {
    retryable: false,
    fixedBy: 'server admin',
    seen: 'sshd -t refused the configuration; our file was taken back',
    hint: () => 'Run "sshd -t" on the server and mend what it names.',
  },
  trust_not_effective: {
    retryable: false,
    fixedBy: 'server admin',
    seen: 'sshd would not read the trust line for this login; access was not given',
    hint: () =>
      'sshd_config must contain "Include /etc/ssh/sshd_config.d/*.conf" before any Match block that sets AuthorizedKeysFile (OpenSSH 8.2 or later), or set the policy trust to home.',
  },
  login_not_allowed: {
    retryable: false,
    fixedBy: 'server admin',
    seen: 'sshd would not let this login in: AllowUsers, DenyUsers, AllowGroups or DenyGroups',
    hint: () =>
      `Take them out of DenyUsers and DenyGroups, or let them in. ${forOurLogins('AllowUsers *', 'AllowGroups apono-managed')}`,
  },
  login_unusable: {
    retryable: false,
    fixedBy: 'server admin',
    seen: 'the login exists and could be adopted, but cannot log in',
    hint: (facts) => `On the server: chage -l ${facts.login ?? 'LOGIN'}; getent passwd ${facts.login ?? 'LOGIN'}.`,
  },
  grants_live: {
    retryable: false,
    fixedBy: 'control plane admin',
    seen: 'grants are not ended yet; nothing was changed',
    hint: () => 'End them first; a grant whose end is not confirmed counts as live.',
  },
  cleanup_failed: {
    retryable: true,
    fixedBy: 'server admin',
    seen: 'a home, or a folder of ours, could not be put away',
    hint: (facts) => `On the server: ${facts.detail ?? 'see its log'}.`,
  },
  no_expiry_timer: {
    retryable: false,
    fixedBy: 'server admin',
    seen: 'nothing on the server ends sessions and groups by itself when a grant is over',
    hint: () =>
      'Run systemd or cron there. Without it new logins end in time all the same, and the connector ends sessions; with nobody alive they would live on.',
  },
  trust_write_failed: {
    retryable: true,
    fixedBy: 'server admin',
    seen: 'the trust line could not be written',
    hint: (facts) => `On the server: ${facts.detail ?? 'check the folder and its owner'}`,
  },
  revoke_incomplete: {
    retryable: true,
    fixedBy: 'server admin',
    seen: 'a step of the revocation failed; the others were done',
    hint: (facts) => `On the server: ${facts.detail ?? 'see its log'}. It is tried again until it is confirmed.`,
  },

  ...problemErrors,
} as const satisfies Record<string, ErrorEntry>

export type ErrorCode = keyof typeof errorTable

/** A failure with a place in the table. Its message never holds secrets or text of the person's own making. */
export class JobError extends Error {
  readonly code: ErrorCode
  readonly retryable: boolean
  readonly hint: string
  /** What a `superseded` program found in the ledger. */
  readonly recorded: { generation: number; epoch: number } | undefined

  constructor(
    code: ErrorCode,
    message: string,
    facts: ErrorFacts = {},
    extra: { cause?: unknown; recorded?: { generation: number; epoch: number } } = {},
  ) {
    super(message, extra.cause === undefined ? {} : { cause: extra.cause })
    this.name = 'JobError'
    this.code = code
    this.retryable = errorTable[code].retryable
    this.hint = errorTable[code].hint(facts)
    this.recorded = extra.recorded
  }

  /** A code that the program printed. One that is not in the table is a defect of ours, and is named as such. */
  static reported(
    code: string,
    detail: string,
    facts: ErrorFacts,
    recorded?: { generation: number; epoch: number },
  ): JobError {
    const known: ErrorCode = Object.hasOwn(errorTable, code) ? (code as ErrorCode) : 'internal_error'
    const message = `${errorTable[known].seen}${detail === '' ? '' : ` (${detail})`}`
    return new JobError(known, message, { ...facts, detail }, recorded ? { recorded } : {})
  }
}
