import { type ErrorEntry, type ErrorFacts, forOurLogins, user, where } from './error-entry.ts'

/** Longer than any but RSA keys of more than 8192 bits: a hint has room for one. */
const LONGEST_LINE = 1500

/** An empty line does no harm; a last line without its end, with another behind it, would. */
const addKeyLine = ({ publicLine = '', ...facts }: ErrorFacts): string =>
  publicLine === '' || publicLine.length > LONGEST_LINE
    ? `Add its public half, as ssh-keygen -y prints it, to authorized_keys of ${user(facts)} on ${where(facts)}.`
    : `As root on ${where(facts)}:\nprintf '\\n%s\\n' '${publicLine}' >>~${user(facts)}/.ssh/authorized_keys`

/**
 * What only `inspect` says: nothing has failed yet, and access would, or would be weaker than it looks. Where `ensure`
 * runs into the same thing, the code is that of the failure and stands in the other tables.
 */
export const problemErrors = {
  key_login_off: {
    retryable: false,
    fixedBy: 'server admin',
    seen: 'sshd takes no keys, so no certificates (PubkeyAuthentication)',
    hint: () => forOurLogins('PubkeyAuthentication yes'),
  },
  second_factor: {
    retryable: false,
    fixedBy: 'server admin',
    seen: 'sshd asks for more than a certificate (AuthenticationMethods): a login that we make has no password and no second factor',
    hint: () => forOurLogins('AuthenticationMethods publickey'),
  },
  authority_refused: {
    retryable: false,
    fixedBy: 'server admin',
    seen: 'sshd takes no certificate that an ed25519 authority signed (CASignatureAlgorithms; FIPS mode)',
    hint: () => forOurLogins('CASignatureAlgorithms +ssh-ed25519'),
  },
  key_type_refused: {
    retryable: false,
    fixedBy: 'server admin',
    seen: 'sshd takes no certificate for an ed25519 key (PubkeyAcceptedAlgorithms; FIPS mode)',
    hint: () =>
      `People need keys of another type, RSA or ECDSA, where sshd takes certificates for those. ${forOurLogins('PubkeyAcceptedAlgorithms +ssh-ed25519-cert-v01@openssh.com')}`,
  },
  login_limited: {
    retryable: false,
    fixedBy: 'server admin',
    seen: 'sshd lets people in and gives them no ordinary shell',
    hint: () => forOurLogins('ForceCommand none', 'ChrootDirectory none', 'PermitTTY yes', 'MaxSessions 10'),
  },
  other_keys: {
    retryable: false,
    fixedBy: 'server admin',
    seen: 'sshd takes keys for every login from another place as well: while a grant lives, they open its login too',
    hint: () => forOurLogins('AuthorizedKeysCommand none', 'TrustedUserCAKeys none'),
  },
  folder_unsafe: {
    retryable: false,
    fixedBy: 'server admin',
    seen: 'a folder that trust lines, ledger or homes stand in can be written by others than root; sshd refuses that (StrictModes)',
    hint: () => 'On the server: chown root:root FOLDER; chmod go-w FOLDER',
  },
  pam_denied: {
    retryable: false,
    fixedBy: 'server admin',
    seen: 'PAM lets no login in that we make (pam_access)',
    hint: () => 'Add this line to /etc/security/access.conf, before the one that denies:\n+:(apono-managed):ALL',
  },
  sessions_not_tracked: {
    retryable: false,
    fixedBy: 'server admin',
    seen: "sessions carry no audit login uid: what a person starts as root can't be told for theirs at the end of a grant",
    hint: () =>
      'Set UsePAM yes in sshd_config, and in /etc/pam.d/sshd: session required pam_loginuid.so. The kernel needs audit (CONFIG_AUDIT).',
  },
  disk_full: {
    retryable: true,
    fixedBy: 'server admin',
    seen: 'no room is left where accounts, ledger or homes are written',
    hint: () => 'On the server: df -h; df -i; and make room.',
  },
  home_remote: {
    retryable: false,
    fixedBy: 'server admin',
    seen: '/home is on a network file system: root may be unable to make homes there (root_squash), and other servers see them',
    hint: () => 'On the server: findmnt -T /home; mkdir /home/x && chown 1 /home/x; rmdir /home/x must all work.',
  },
  selinux_confined: {
    retryable: false,
    fixedBy: 'server admin',
    seen: 'SELinux is enforcing, and the connection user stays confined as root',
    hint: () =>
      'Give it a role that may administer: semanage login -a -s unconfined_u USER; or ROLE=unconfined_r TYPE=unconfined_t in its sudoers line.',
  },
  directory_accounts: {
    retryable: false,
    fixedBy: 'nobody',
    seen: 'accounts and groups also come from a directory',
    hint: () =>
      'Nothing to do. Logins whose names the directory has are refused, and so are its groups for who is not in them there: give those in the directory. Which names: getent -s SOURCE passwd NAME',
  },
  name_cache: {
    retryable: false,
    fixedBy: 'nobody',
    seen: 'a cache of names runs (nscd): a new membership may be seen late',
    hint: () => 'If a grant is not seen at once: nscd -i passwd; nscd -i group',
  },
  managed_group_foreign: {
    retryable: false,
    fixedBy: 'server admin',
    seen: 'an account that we did not make is in our group: sshd reads no keys from its home',
    hint: () => 'On the server: getent group apono-managed apono-managed-home; gpasswd -d NAME GROUP',
  },
  uid_range_shared: {
    retryable: false,
    fixedBy: 'server admin',
    seen: "uids that are given to people are also handed to containers (/etc/subuid): they could touch each other's files",
    hint: () => 'Move that range in /etc/subuid out of 20000-59999, or set another uidRange in the policy.',
  },
  next_key_unusable: {
    retryable: false,
    fixedBy: 'connector admin',
    seen: 'the secret holds a next key (base64_private_key_next) that cannot be opened; the current one is used',
    hint: (facts) => facts.detail ?? 'Store the next key as the current one is stored.',
  },
  next_key_not_taken: {
    retryable: false,
    fixedBy: 'server admin',
    seen: 'the server takes the current key of the connector and not yet the next one (base64_private_key_next)',
    hint: (facts) =>
      [
        addKeyLine(facts),
        'Then refresh the integration. Until every server takes the next key, leave the current one in the secret and on the servers.',
      ].join('\n'),
  },
  list_cut: {
    retryable: false,
    fixedBy: 'nobody',
    seen: 'the server has more than a report can carry; the list was cut',
    hint: () => 'Nothing to do, as long as what is missing is not needed: the first 1000 are shown, live grants first.',
  },
} as const satisfies Record<string, ErrorEntry>
