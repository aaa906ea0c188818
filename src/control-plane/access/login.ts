/**
 * Names that belong to the system, to a package or to a habit on some distribution. A person who got one of them as
 * login would be refused by the server at best.
 */
const WELL_KNOWN = new Set(
  `root daemon bin sys sync games man lp mail news uucp proxy www-data backup list irc gnats nobody nogroup
   adm halt shutdown operator ftp http nginx apache mysql postgres redis mongodb messagebus polkitd polkituser dbus
   systemd-network systemd-resolve systemd-timesync systemd-coredump systemd-oom _apt sshd ssh uuidd tcpdump tss
   rpc rpcuser nfsnobody chrony ntp postfix dovecot exim smmsp cron at atd syslog avahi usbmux libvirt-qemu kvm
   docker podman lxd sudo wheel staff users utmp tty disk kmem dialout cdrom floppy tape audio video plugdev netdev
   shadow input render sgx ssl-cert crontab git svn jenkins gitlab-runner vagrant pi ubuntu debian centos fedora rocky
   almalinux alpine amazon ec2-user azureuser opc core admin administrator guest test user apono ansible puppet chef
   node nodejs oracle db2inst1 tomcat bind named ldap nslcd sssd radiusd squid zabbix nagios prometheus grafana
   elasticsearch kibana logstash rabbitmq consul vault nomad etcd kube`.split(/\s+/),
)

const MAX_LENGTH = 32

/** Only what {@link CREATABLE_LOGIN} of the protocol allows is left. */
const base = (email: string): string => {
  const local = email.split('@')[0] ?? ''
  const kept = local
    .toLowerCase()
    .replace(/\+.*$/, '')
    .replace(/[^a-z0-9_-]+/g, '-')
    .replace(/^-+|-+$/g, '')
  if (kept === '') return 'person'
  return (/^[a-z_]/.test(kept) ? kept : `u${kept}`).slice(0, MAX_LENGTH)
}

export const isWellKnownAccount = (login: string): boolean =>
  WELL_KNOWN.has(login) || login.startsWith('systemd-') || login.startsWith('_')

/** Names for a person, best first; the caller takes the first that nobody has. */
export function* loginCandidates(email: string): Generator<string> {
  const name = base(email)
  if (!isWellKnownAccount(name)) yield name
  for (let number = 2; ; number += 1) {
    const suffix = `-${number}`
    yield `${name.slice(0, MAX_LENGTH - suffix.length)}${suffix}`
  }
}
