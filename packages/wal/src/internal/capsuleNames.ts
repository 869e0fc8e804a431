/**
 * The names of the files of commit capsules, as `CapsuleFormat.ts` hands them out: that module is the only one that
 * imports this.
 *
 * @internal
 */
import { type ObjectId, objectIdToHex, toObjectId } from "@tidemark/core/Scalars"
import { sideDirectory } from "../WalBaseFormat.ts"

/**
 * The directory of the capsules of a database.
 *
 * @category names
 * @since 0.1.0
 */
export const capsulesDirectory = (database: string): string => `${sideDirectory(database)}/capsules`

/**
 * The file of a capsule: 32 hexadecimal digits in {@link capsulesDirectory}.
 *
 * **Example** (Naming a capsule)
 *
 * ```ts
 * import { toObjectId } from "@tidemark/core/Scalars"
 * import { capsulePath } from "@tidemark/wal/CapsuleFormat"
 *
 * capsulePath("my.db", toObjectId(new Uint8Array(16))) // => "my.db.fsqlite/capsules/00000000000000000000000000000000"
 * ```
 *
 * @category names
 * @since 0.1.0
 */
export const capsulePath = (database: string, id: ObjectId): string =>
  `${capsulesDirectory(database)}/${objectIdToHex(id)}`

const namePattern = /^[0-9a-f]{32}$/

/**
 * The id of a file name (not a path), or undefined when it is not that of a capsule.
 *
 * @category names
 * @since 0.1.0
 */
export const idOfCapsuleName = (name: string): ObjectId | undefined => {
  if (!namePattern.test(name)) return undefined
  const bytes = new Uint8Array(name.length / 2)
  for (let i = 0; i < bytes.length; i++) bytes[i] = Number.parseInt(name.slice(2 * i, 2 * i + 2), 16)
  return toObjectId(bytes)
}
