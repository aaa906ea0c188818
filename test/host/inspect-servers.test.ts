import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest'
import { type HostOptions, startHost, type TestHost } from '../hosts/hosts.ts'
import { scratchDirectory } from '../hosts/scratch.ts'
import { makePerson, type Person } from './person.ts'
import { anotherSshd, change, look, RELOAD, sshdSettings, told } from './servers.ts'

/** A server that is gone with the test. */
const withHost = async (options: HostOptions, work: (host: TestHost) => Promise<void>): Promise<void> => {
  const host = await startHost(options)
  try {
    await work(host)
  } finally {
    await host.stop()
  }
}

/** Everything that stands where we write, with its times. */
const listing = async (host: TestHost): Promise<string> => {
  const { stdout } = await host.exec(
    "find /etc /var /home /root /usr/local -printf '%p %y %m %u %g %s %n %T@ %C@ %l\\n' | sort",
  )
  expect(stdout.split('\n').length).toBeGreaterThan(500)
  return stdout
}

describe('inspect changes nothing', () => {
  it('on a server that never saw us, and on one in use', () =>
    withHost({}, async (host) => {
      const fresh = await listing(host)
      expect(await look(host)).toMatchObject({ hostId: null, problems: [], ledger: [] })
      expect(await listing(host)).toBe(fresh)
      await (await makePerson(host)).present({ groups: ['dbadmins'] })
      const used = await listing(host)
      expect(await look(host)).toMatchObject({ hostId: expect.stringMatching(/^h_/), problems: [] })
      expect(await listing(host)).toBe(used)
    }))
})

// The connector stays in whatever is set for all others.
const CONNECTOR = ['Match User apono', 'PubkeyAuthentication yes', 'AuthenticationMethods publickey']

describe('what inspect calls an error keeps people out, and its hint lets them in', () => {
  let host: TestHost
  let person: Person
  let certificate: string
  beforeAll(async () => {
    host = await startHost()
    person = await makePerson(host)
    certificate = (await person.present()).certificatePath
  })
  afterAll(() => host?.stop())
  afterEach(() => change(host, `rm -f /etc/ssh/sshd_config.d/[59]0-*.conf; ${RELOAD}`))

  const getsIn = async (): Promise<boolean> => (await person.login(certificate, 'true')).code === 0
  const hintFor = async (code: string): Promise<string> => {
    const { problems } = await look(host)
    expect(problems).toEqual([expect.objectContaining({ code, severity: 'error' })])
    return problems[0]?.hint ?? ''
  }

  it.each([
    ['key_login_off', ['PubkeyAuthentication no', ...CONNECTOR]],
    ['second_factor', ['AuthenticationMethods publickey,password', ...CONNECTOR]],
    ['authority_refused', ['CASignatureAlgorithms rsa-sha2-512']],
    ['key_type_refused', ['PubkeyAcceptedAlgorithms ssh-ed25519']],
    ['login_limited', ['MaxSessions 0', ...CONNECTOR, 'MaxSessions 10']],
    ['login_not_allowed', ['AllowGroups apono']],
    ['login_not_allowed', ['AllowUsers apono']],
  ])('%s: %j', async (code, lines) => {
    expect(await getsIn()).toBe(true)
    await change(host, `${sshdSettings(lines)}\n${RELOAD}`)
    const hint = await hintFor(code)
    expect(await getsIn()).toBe(false)
    const block = hint.slice(hint.indexOf('Match Group apono-managed')).split('\n')
    expect(block.length).toBeGreaterThan(1)
    await change(host, `${sshdSettings(block, '90-hint.conf')}\n${RELOAD}`)
    expect(await getsIn()).toBe(true)
    expect(told(await look(host))).toEqual([])
  })

  it('folder_unsafe', async () => {
    await change(host, 'chown apono /etc/ssh; chmod g+w /etc/ssh')
    const hint = await hintFor('folder_unsafe')
    expect(await getsIn()).toBe(false)
    const commands = hint.slice(hint.indexOf('chown')).replaceAll('FOLDER', '/etc/ssh')
    await change(host, commands)
    expect(await getsIn()).toBe(true)
    expect(told(await look(host))).toEqual([])
  })

  it('pam_denied', async () => {
    await change(
      host,
      `echo 'account required pam_access.so' >>/etc/pam.d/sshd
      printf '+:apono:ALL\\n-:ALL:ALL\\n' >/etc/security/access.conf`,
    )
    const hint = await hintFor('pam_denied')
    expect(await getsIn()).toBe(false)
    await change(host, `sed -i '1i ${hint.split('\n')[1]}' /etc/security/access.conf`)
    expect(await getsIn()).toBe(true)
    expect(told(await look(host))).toEqual([])
  })
})

describe('inspect of a server in use', () => {
  let host: TestHost
  let person: Person
  beforeAll(async () => {
    host = await startHost()
    person = await makePerson(host)
    await person.present()
  })
  afterAll(() => host?.stop())
  afterEach(() => change(host, 'rm -f /etc/ssh/sshd_config.d/50-*; usermod -e "" dana'))

  it('asks sshd for a login of ours, and for one that is not there yet', async () => {
    await change(host, sshdSettings(['AllowUsers apono dana']))
    expect(told(await look(host))).toEqual(['error login_not_allowed'])
    await change(host, sshdSettings(['AllowUsers apono', 'Match Group apono-managed', 'AllowUsers *']))
    expect(told(await look(host))).toEqual([])
    expect((await look(host)).ssh.authorizedKeysFile).toEqual(['.ssh/authorized_keys', '.ssh/authorized_keys2'])
  })

  it('sees that sshd does not read our trust lines', async () => {
    await change(host, sshdSettings(['Match User dana', 'AuthorizedKeysFile none']).replace('50-test', '00-a'))
    expect(told(await look(host))).toEqual(['error trust_not_effective'])
    await change(host, 'rm /etc/ssh/sshd_config.d/00-a.conf')
    await change(host, 'mv /etc/ssh/sshd_config.d/00-apono-connector.conf /root/')
    expect(told(await look(host))).toEqual(['error trust_not_effective'])
    await change(host, 'mv /root/00-apono-connector.conf /etc/ssh/sshd_config.d/')
  })

  it('sees that an account was shut', async () => {
    expect((await look(host)).ledger).toMatchObject([{ grantId: 'grt_1', intact: true }])
    await change(host, 'usermod -e 1 dana')
    expect((await look(host)).ledger).toMatchObject([{ grantId: 'grt_1', intact: false }])
    await change(host, 'usermod -e "$(date -d tomorrow +%F)" dana')
    expect((await look(host)).ledger).toMatchObject([{ grantId: 'grt_1', intact: true }])
  })

  it('says that the clock is off', async () => {
    const { clockSkewMs, problems } = await look(host, undefined, Date.now() - 90_000)
    expect(problems).toMatchObject([{ code: 'clock_skew', severity: 'error' }])
    expect(problems[0]?.message).toMatch(/\((?:89|9[0-9]) s\)$/)
    expect(clockSkewMs).toBeGreaterThan(89_000)
    expect(told(await look(host, undefined, Date.now() + 50_000))).toEqual([])
  })

  it('cuts long lists, live grants last, and takes no odd name', async () => {
    await change(
      host,
      `awk 'BEGIN { for (i = 0; i < 1100; i++) print "many" i ":x:" 30000 + i ":" }' >>/etc/group
      printf 'a*b:x:40000:\\n%s:x:40001:\\n' ${'y'.repeat(40)} >>/etc/group
      cd /var/lib/apono-connector/grants
      for i in $(seq 1 1100); do printf 'format=1\\ngeneration=1\\nepoch=1\\nstate=absent\\n' >cp_test.a$i; done`,
    )
    const { groups, ledger, problems } = await look(host)
    expect(groups).toHaveLength(1000)
    expect(ledger).toHaveLength(1000)
    expect(ledger[0]).toMatchObject({ grantId: 'grt_1', state: 'present' })
    expect(problems.map(({ code, message }) => [code, message.split(' (')[1]])).toEqual([
      ['list_cut', 'groups)'],
      ['list_cut', 'ledger)'],
    ])
    await change(
      host,
      'rm -f /var/lib/apono-connector/grants/cp_test.a*; sed -i -e /^many/d -e /^a[*]b/d -e /^yyy/d /etc/group',
    )
    expect(told(await look(host))).toEqual([])
  })

  it('quotes what stands in files as text, and short', async () => {
    const evil = '$(touch /tmp/run) `touch /tmp/run` ; touch /tmp/run; \\033[31m\\n %s * ../../../etc'
    await change(
      host,
      `printf 'PRETTY_NAME="${evil.replaceAll('$', '\\$').replaceAll('`', '\\`')}"\\nID=%0999d\\n' 7 >/etc/os-release
      echo '$(touch /tmp/run)../../x:10000:65536\\033' >>/etc/subuid
      groupadd -r apono-managed-home; sed -i 's|^apono-managed-home:.*|&../../../../etc/passwd,*,$(touch /tmp/run),|' /etc/group`,
    )
    const result = await look(host)
    expect((await host.exec('ls /tmp/run')).code).not.toBe(0)
    const texts = [...Object.values(result.os), ...result.problems.flatMap(({ message, hint }) => [message, hint])]
    for (const text of texts) expect(text).toMatch(/^[\t\n\x20-\x7e]*$/)
    for (const text of Object.values(result.os)) expect(text.length).toBeLessThanOrEqual(256)
    expect(new Set(told(result))).toEqual(new Set(['warning uid_range_shared', 'warning managed_group_foreign']))
  })
})

describe('inspect of an sshd that was started in its own way', () => {
  it('with another configuration file', () =>
    withHost({ setup: `cp /etc/ssh/sshd_config /etc/ssh/other; ${anotherSshd('-f /etc/ssh/other')}` }, async (host) => {
      const result = await look(host)
      expect(told(result)).toEqual(['warning trust_not_effective'])
      expect(result.trust).toEqual(['home'])
    }))

  it('with settings on its command line', () =>
    withHost({ setup: anotherSshd('-oCASignatureAlgorithms=rsa-sha2-512 -o MaxSessions=9') }, async (host) =>
      expect(told(await look(host))).toEqual(['error authority_refused']),
    ))

  it('without PAM: nobody is tracked', () =>
    withHost(
      { setup: `usermod -p '*' apono; sed -i 's/^UsePAM.*/UsePAM no/' /etc/ssh/sshd_config; ${RELOAD}` },
      async (host) => {
        const result = await look(host)
        expect(told(result)).toEqual(['warning sessions_not_tracked'])
        expect(result.ssh.usePam).toBe(false)
      },
    ))
})

describe('inspect of places', () => {
  let host: TestHost
  const controlPath = join(scratchDirectory(), 'control')
  beforeAll(async () => {
    host = await startHost({ kind: 'systemd' })
    // Some of this would keep the connector out: its connection stands before.
    expect(told(await look(host, controlPath))).toEqual([])
  })
  afterAll(() => host?.stop())

  const tmpfs = (path: string, options: string): string => `mount -t tmpfs -o mode=755,${options} tmpfs ${path}`
  it.each([
    ['/etc is read-only', '/etc', 'mount --bind /etc /etc; mount -o remount,bind,ro /etc', 'error read_only'],
    ['/home is read-only', '/home', tmpfs('/home', 'ro'), 'error read_only'],
    ['/var/lib is read-only', '/var/lib', tmpfs('/var/lib', 'ro'), 'error read_only'],
    ['/home is full', '/home', tmpfs('/home', 'size=256k'), 'error disk_full'],
    ['/var/lib has no inodes left', '/var/lib', tmpfs('/var/lib', 'nr_inodes=20'), 'error disk_full'],
  ])('%s', async (_name, path, mount, problem) => {
    await change(host, mount)
    try {
      const result = await look(host, controlPath)
      expect([...new Set(told(result))]).toEqual([problem])
      expect(result.problems[0]?.message).toContain(path)
    } finally {
      await change(host, `umount ${path}`)
    }
  })
})

describe('inspect of an old server', () => {
  it('reads what OpenSSH 8.4 says', () =>
    withHost({ kind: 'debian11' }, async (host) => {
      expect((await look(host)).ssh.version).toMatch(/^OpenSSH_8\.4/)
      expect(told(await look(host))).toEqual([])
      await change(host, sshdSettings(['PubkeyAcceptedKeyTypes ssh-ed25519', 'AllowUsers apono']))
      expect(told(await look(host))).toEqual(['error key_type_refused', 'error login_not_allowed'])
    }))
})

describe('inspect of a server with a directory', () => {
  it('names it', () =>
    withHost({ kind: 'ldap' }, async (host) => {
      const { problems } = await look(host)
      expect(problems).toMatchObject([{ code: 'directory_accounts', severity: 'warning' }])
      expect(problems[0]?.message).toContain('(ldap)')
    }))
})

describe('inspect as root', () => {
  it('needs no sudo, and sees that nobody else may log in', () =>
    withHost({ user: 'root', setup: 'rm -rf /usr/bin/sudo /etc/sudoers*' }, async (host) => {
      const before = await look(host)
      expect(before.sudo).toEqual({ ok: true, flavour: 'root' })
      expect(before.problems).toEqual([])
      await change(host, 'touch /run/nologin')
      expect(told(await look(host))).toEqual(['error ssh_nologin'])
    }))
})
