import { baseImage, findImages, foundImage } from '../../hosts/bases.ts'

// The secret stores that run in containers, each under its public name. docker/base-images.sh finds, pulls or makes them.

const stores = { moto: 'motoserver/moto:5.2.5' } as const

/** Only where they can be pulled. */
const optional = { lowkeyVault: 'nagyesta/lowkey-vault:7.3.74' } as const

export type StoreKind = keyof typeof stores

/** The image to run. */
export const storeImage = (kind: StoreKind): Promise<string> => baseImage(stores[kind])

/** The image to run; undefined where it can't be had. */
export const optionalStoreImage = (kind: keyof typeof optional): string | undefined => foundImage(optional[kind])

/** Once a run, before its tests: finds them all; gives the answer as a part of APONO_TEST_BASES. */
export const findStoreImages = async (): Promise<string> => {
  try {
    return `${await findImages(Object.values(stores))} ${await findImages(['--pull-only', ...Object.values(optional)])}`
  } catch (error) {
    // The tests that need one will fail, and say so again; the others need not.
    process.stderr.write(`secret stores: ${error instanceof Error ? error.message : error}\n`)
    return ''
  }
}
