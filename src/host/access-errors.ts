import { type ErrorEntry, type ErrorFacts, sudoersLine, user, where } from './error-entry.ts'

const repairSshFolder = (facts: ErrorFacts): string => {
  const home = user(facts) === 'root' ? '/root' : `/home/${user(facts)}`
  return [
    `chown -R ${user(facts)}:${user(facts)} ${home}/.ssh`,
    `chmod 700 "${home}/.ssh"`,
    `chmod 600 "${home}/.ssh/authorized_keys"`,
  ].join('\n')
}

const isOne = ({ fingerprints = [] }: ErrorFacts): boolean => fingerprints.length < 2

const namedKeys = (facts: ErrorFacts): string =>
  isOne(facts) ? `key ${facts.fingerprints?.[0] ?? ''}` : `the keys ${facts.fingerprints?.join(' and ')}`

const addToSudoers = (facts: ErrorFacts): string => `Add this line to the sudoers file (visudo):\n${sudoersLine(facts)}`

const doasLine = (facts: ErrorFacts): string => `permit nopass ${user(facts)} as root`

const showHostKey = (facts: ErrorFacts): string =>
  `ssh-keygen -lf /etc/ssh/ssh_host_${facts.hostKeyKind ?? 'ed25519'}_key.pub`

const keepHostKey = (facts: ErrorFacts): string =>
  facts.knownHosts === undefined
    ? 'Put the content of that file into host_keys of this server in the integration.'
    : `Put the content of that file, behind the name of the server, into ${facts.knownHosts} on the connector, in place of the old line.`

/** From the first packet to the moment our program runs as root. */
export const accessErrors = {
  // On the way to the server.
  ssh_unreachable: {
    retryable: true,
    fixedBy: 'server admin',
    seen: 'no TCP connection, or it broke during the SSH handshake',
    hint: (facts) =>
      `Check that ${where(facts)} is the right address, that sshd runs there (systemctl status ssh sshd) and that the connector's network may reach it.`,
  },
  ssh_turned_away: {
    retryable: true,
    fixedBy: 'server admin',
    seen: 'the server took the TCP connection and closed it before SSH began',
    hint: (facts) =>
      `${where(facts)} turns connections away: too many at once (MaxStartups), or this address has been penalised for earlier failures (PerSourcePenalties, fail2ban). On the server: sshd -T | grep -i -e maxstartups -e persource; and the log of sshd. What passes connections on, a load balancer say, closes them like this when nothing is behind it.`,
  },
  ssh_penalised: {
    retryable: true,
    fixedBy: 'server admin',
    seen: "the server punishes the connector's address for earlier failures, and lets nobody in from there for a while",
    hint: (facts) =>
      `Wait: sshd forgets after minutes. If it comes again, look in the log of sshd at ${where(facts)} for who fails to log in from the connector's address, and exempt that address: PerSourcePenaltyExemptList in sshd_config.`,
  },
  circuit_open: {
    retryable: true,
    fixedBy: 'server admin',
    seen: 'the server could not be reached several times in a row; it is left alone for a while, 15 s to 10 min',
    hint: (facts) =>
      `The message names the last failure; its own entry here says what to do. ${where(facts)} is tried again by itself.`,
  },
  jump_failed: {
    retryable: true,
    fixedBy: 'server admin',
    seen: 'the jump host was reached, and from there nobody answers',
    hint: (facts) =>
      `On the jump host: getent hosts NAME; nc -vz NAME PORT, with the name and port of the message. It resolves the name, not the connector. ${where(facts)} is the jump host.`,
  },
  jump_forbidden: {
    retryable: false,
    fixedBy: 'server admin',
    seen: 'the jump host lets the connection user in and forwards nothing for it',
    hint: (facts) =>
      `On the jump host: sshd -T -C user=${user(facts)},host=localhost,addr=127.0.0.1 | grep -i -e allowtcpforwarding -e permitopen -e disableforwarding`,
  },
  ssh_timeout: {
    retryable: true,
    fixedBy: 'server admin',
    seen: 'no answer in time',
    hint: (facts) =>
      `Something at ${where(facts)} drops packets or is overloaded. Check firewalls and the server's load.`,
  },
  ssh_auth_failed: {
    retryable: false,
    fixedBy: 'server admin',
    seen: 'the server refused the key',
    hint: (facts) =>
      [
        `${where(facts)} refused ${namedKeys(facts)} for user ${user(facts)}.`,
        `${isOne(facts) ? 'Its public half' : 'The public half of one of them'} must be a line in that user's authorized_keys. If it is, the folder may belong to someone else; on the server, as root:`,
        repairSshFolder(facts),
        'Then refresh the integration: by itself the connector offers a refused key no more, since that would get it banned.',
      ].join('\n'),
  },
  ssh_mfa_required: {
    retryable: false,
    fixedBy: 'server admin',
    seen: 'the server accepted the key and asks for a second factor',
    hint: (facts) =>
      `Exempt the connection user in sshd_config, then sshd -t && systemctl reload ssh:\nMatch User ${user(facts)}\n\tAuthenticationMethods publickey`,
  },
  ssh_account_expired: {
    retryable: false,
    fixedBy: 'server admin',
    seen: "the server accepted the key; the connection user's account has expired",
    hint: (facts) => `On the server: chage -l ${user(facts)}; chage -E -1 ${user(facts)}`,
  },
  ssh_nologin: {
    retryable: true,
    fixedBy: 'server admin',
    seen: 'the server lets nobody but root in at the moment (/run/nologin, /etc/nologin): it is going down or coming up, or an admin wants it so',
    hint: () => 'Wait, or on the server: ls -l /run/nologin /etc/nologin; rm the one that was left behind.',
  },
  ssh_account_denied: {
    retryable: true,
    fixedBy: 'server admin',
    seen: 'the server closed the connection once the key was offered, without a word: PAM denies the account',
    hint: (facts) =>
      `On the server: chage -l ${user(facts)}; ls /run/nologin /etc/nologin; grep -v '^#' /etc/security/access.conf; and the log of sshd.`,
  },
  ssh_handshake_failed: {
    retryable: false,
    fixedBy: 'server admin',
    seen: 'client and server have no algorithm in common, or the server does not speak SSH 2',
    hint: () =>
      'The server must offer curve25519 or ECDH/DH-group14+ key exchange with SHA-2 and no SHA-1-only algorithms: sshd -T | grep -i -e kexalgorithms -e hostkeyalgorithms',
  },
  host_key_unknown: {
    retryable: false,
    fixedBy: 'control plane admin',
    seen: 'no host key is pinned and the policy does not allow trust on first use',
    hint: (facts) =>
      `Look at the key on the server itself: ${showHostKey(facts)}. ${keepHostKey(facts)} Or, where nobody can stand in its place on the way there, set the policy hostKeys to trust_on_first_use.`,
  },
  host_key_changed: {
    retryable: false,
    fixedBy: 'control plane admin',
    seen: 'the server shows another host key than the one that is known',
    hint: (facts) =>
      [
        `If the server was not rebuilt, someone may be answering in its place. On the server itself: ${showHostKey(facts)}`,
        `Only if that prints the fingerprint that was shown here, accept it. ${keepHostKey(facts)}`,
      ].join('\n'),
  },
  host_key_revoked: {
    retryable: false,
    fixedBy: 'server admin',
    seen: "the server shows a host key that the connector's known_hosts marks @revoked; it is refused wherever else it is known",
    hint: (facts) =>
      `Whoever has that key can pretend to be ${where(facts)}. Give the server a new one (ssh-keygen, then restart sshd), and list that in place of the old one.`,
  },
  known_hosts_unreadable: {
    retryable: true,
    fixedBy: 'connector admin',
    seen: "the connector's known_hosts (APONO_KNOWN_HOSTS_FILE) cannot be read whole; no connection was opened, since what can't be read may be a revoked key",
    hint: () => 'Mend the file or the lines that are named; it is read again by itself.',
  },
  ssh_no_sessions: {
    retryable: false,
    fixedBy: 'server admin',
    seen: 'the server lets the connection user in and refuses even the first session',
    hint: (facts) =>
      `On the server: sshd -T -C user=${user(facts)},host=localhost,addr=127.0.0.1 | grep -i maxsessions; it must be above 0 (sshd_config, then systemctl reload ssh).`,
  },
  ssh_channel_refused: {
    retryable: true,
    fixedBy: 'server admin',
    seen: 'the server refused one more session on a connection that had some',
    hint: () =>
      'Nothing to do: it is free again when another ends. Raise MaxSessions in sshd_config if it comes often.',
  },
  connection_lost: {
    retryable: true,
    fixedBy: 'nobody',
    seen: 'the connection ended before the result arrived; what happened on the server is unknown',
    hint: () => 'Nothing to do: the job is safe to run again.',
  },
  output_too_large: {
    retryable: false,
    fixedBy: 'server admin',
    seen: 'more output than a job can produce',
    hint: (facts) => `Something else than /bin/sh answers for ${user(facts)}; check its login shell and rc files.`,
  },

  // A shell there.
  no_shell: {
    retryable: false,
    fixedBy: 'server admin',
    seen: "the connection user's login shell runs nothing (nologin, false)",
    hint: (facts) => `On the server: getent passwd ${user(facts)}; usermod -s /bin/sh ${user(facts)}`,
  },
  sftp_only: {
    retryable: false,
    fixedBy: 'server admin',
    seen: 'the connection user may transfer files and run nothing (ForceCommand internal-sftp)',
    hint: (facts) =>
      `Exempt the connection user in sshd_config, before the block that sets it, then sshd -t && systemctl reload ssh:\nMatch User ${user(facts)}\n\tForceCommand none`,
  },
  shell_hijacked: {
    retryable: false,
    fixedBy: 'server admin',
    seen: 'the server answered, but our program did not run: a forced command, a restricted shell or an rc file',
    hint: (facts) =>
      `User ${user(facts)} needs an ordinary login shell, no ForceCommand, no command= before its key and no rc file that exits. On the server: getent passwd ${user(facts)}; sshd -T -C user=${user(facts)},host=localhost,addr=127.0.0.1 | grep -i forcecommand; and look at .bashrc, .profile and .ssh/authorized_keys in its home.`,
  },
  shell_needs_tmp: {
    retryable: true,
    fixedBy: 'server admin',
    seen: 'the shell there could not make a temporary file for our program',
    hint: () => 'On the server: df -h /tmp; df -i /tmp; ls -ld /tmp. It must exist, be writable and have room.',
  },
  connection_password_expired: {
    retryable: false,
    fixedBy: 'server admin',
    seen: "the connection user's password must be changed before anything runs",
    hint: (facts) => `On the server: chage -M -1 -d "$(date +%F)" ${user(facts)}`,
  },

  // Becoming root there.
  sudo_password_required: {
    retryable: false,
    fixedBy: 'server admin',
    seen: 'sudo asks for a password: no rule lets the connection user run /bin/sh as root without one',
    hint: (facts) =>
      `${addToSudoers(facts)}\nsudo says the same for a user that no rule names, for a rule without NOPASSWD, for one of another target user and for one of other commands; on the server: sudo -l -U ${user(facts)}. In a file of /etc/sudoers.d, whose name must hold no dot, a later one wins.`,
  },
  sudo_denied: {
    retryable: false,
    fixedBy: 'server admin',
    seen: 'sudo does not allow the connection user to run /bin/sh as root',
    hint: (facts) => `${addToSudoers(facts)}\nWhat it may do now, on the server: sudo -l -U ${user(facts)}`,
  },
  sudo_missing: {
    retryable: false,
    fixedBy: 'server admin',
    seen: 'neither sudo nor doas is installed',
    hint: (facts) => `Install sudo and add this line to the sudoers file (visudo):\n${sudoersLine(facts)}`,
  },
  sudo_requiretty: {
    retryable: false,
    fixedBy: 'server admin',
    seen: 'sudo insists on a terminal',
    hint: (facts) => `Add this line to the sudoers file (visudo):\nDefaults:${user(facts)} !requiretty`,
  },
  sudo_broken: {
    retryable: false,
    fixedBy: 'server admin',
    seen: 'sudo is installed but cannot make our program root, or lets it start nothing (NOEXEC)',
    hint: (facts) =>
      [
        'On the server, as root, whichever it is:',
        'chown root:root "$(command -v sudo)"; chmod 4755 "$(command -v sudo)"; findmnt -T "$(command -v sudo)" (not nosuid)',
        'chown root:root /etc/sudoers; chmod 440 /etc/sudoers; visudo -c',
        'systemctl show -p NoNewPrivileges ssh sshd (must be no)',
        `sudo -l -U ${user(facts)} (no NOEXEC before the command)`,
      ].join('\n'),
  },
  doas_denied: {
    retryable: false,
    fixedBy: 'server admin',
    seen: 'sudo is not installed, and doas does not let the connection user become root without a password',
    hint: (facts) => `Add this line at the end of /etc/doas.conf:\n${doasLine(facts)}`,
  },
  doas_broken: {
    retryable: false,
    fixedBy: 'server admin',
    seen: 'sudo is not installed, and doas cannot make our program root',
    hint: () =>
      [
        'On the server, as root, whichever it is:',
        'chown root:root "$(command -v doas)"; chmod 4755 "$(command -v doas)"; findmnt -T "$(command -v doas)" (not nosuid)',
        'chown root:root /etc/doas.conf; chmod 600 /etc/doas.conf; doas -C /etc/doas.conf',
      ].join('\n'),
  },
  not_root: {
    retryable: false,
    fixedBy: 'server admin',
    seen: 'the program ran, but not as root',
    hint: (facts) => `Allow root in sudoers:\n${sudoersLine(facts)}`,
  },
  interrupted: {
    retryable: true,
    fixedBy: 'nobody',
    seen: 'the program on the server stopped before its end',
    hint: () => 'Nothing to do: the job is safe to run again.',
  },
} as const satisfies Record<string, ErrorEntry>
