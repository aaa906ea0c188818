import { join } from 'node:path'
import { mustRun } from '../test/hosts/command.ts'
import { hostImage } from '../test/hosts/image.ts'

const docker = join(import.meta.dirname, '..', 'docker')

/** The image of one of docker/'s folders, on that of the Debian test host. Docker's own cache knows what is built. */
const imageOf = async (folder: string, purpose: string): Promise<string> => {
  const base = await hostImage('debian')
  process.stderr.write(`bench: building docker/${folder}, unless it is built: ${purpose}\n`)
  const build = ['build', '--quiet', '--build-arg', `BASE=${base}`, '--tag', `apono-local/${folder}`]
  try {
    return (await mustRun('docker', [...build, join(docker, folder)], { timeoutMs: 600_000 })).trim()
  } catch (error) {
    const seen = error instanceof Error ? error.message.slice(-2000) : String(error)
    throw new Error(`docker/${folder} can't be built, and without it there is no such figure: ${purpose}; ${seen}`)
  }
}

/** Where Ansible runs. */
export const ansibleImage = (): Promise<string> => imageOf('bench-ansible', 'Debian’s package ansible is the peer')

/** A test host on which Ansible can work too. */
export const pythonHostImage = (): Promise<string> => imageOf('bench-host', 'Ansible needs Python on the server')
