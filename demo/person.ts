import { writeFileSync } from 'node:fs'
import path from 'node:path'
import { type CommandResult, runCommand } from '../test/hosts/command.ts'
import type { KeyPair } from '../test/hosts/openssh.ts'

/** Keeps what the access details gave in files, and makes the command line that a person would type. */
export const sshCommandLine = (parameters: Readonly<Record<string, string>>, key: KeyPair): string => {
  const { login = '', host = '', port = '', certificate = '', host_keys: hostKeys = '' } = parameters
  const certificatePath = `${key.privateKeyPath}-cert.pub`
  const knownHostsPath = path.join(path.dirname(key.privateKeyPath), 'known_hosts')
  writeFileSync(certificatePath, `${certificate}\n`)
  writeFileSync(
    knownHostsPath,
    hostKeys
      .split('\n')
      .map((hostKey) => `[${host}]:${port} ${hostKey}\n`)
      .join(''),
  )
  return [
    'ssh -F /dev/null -o BatchMode=yes',
    `-i ${key.privateKeyPath} -o CertificateFile=${certificatePath} -o IdentitiesOnly=yes`,
    `-o UserKnownHostsFile=${knownHostsPath} -o StrictHostKeyChecking=yes`,
    `-p ${port} ${login}@${host}`,
  ].join(' ')
}

export const runShell = (command: string): Promise<CommandResult> => runCommand('sh', ['-c', command])
