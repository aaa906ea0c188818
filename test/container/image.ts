import { join } from 'node:path'
import { mustRun } from '../hosts/command.ts'

export const root = join(import.meta.dirname, '..', '..')

/** On a machine where nothing of it was built before. */
export const BUILD_MS = 600_000

/** The name of the image of these very sources; built unless it is there. */
export const connectorImage = async (): Promise<string> => {
  const script = join(root, 'scripts', 'image.sh')
  return (await mustRun('sh', [script], { timeoutMs: BUILD_MS, progress: true })).trim()
}
