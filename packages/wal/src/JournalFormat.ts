/**
 * As much of SQLite's rollback journal as a start needs: whether one is hot (RC-24). Tidemark never writes one.
 *
 * @since 0.1.0
 */

/**
 * Bytes of the header of a rollback journal.
 *
 * @category constants
 * @since 0.1.0
 */
export const journalHeaderBytes = 28

const magic = Uint8Array.of(0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7)

/**
 * The file that holds the rollback journal of a database.
 *
 * @category constructors
 * @since 0.1.0
 */
export const journalPath = (databasePath: string): string => `${databasePath}-journal`

/**
 * Whether a journal that starts with these bytes would be played back by SQLite: its header is whole and carries the
 * magic. A finished transaction leaves none, an empty one, or one whose header was overwritten with zeros.
 *
 * @category predicates
 * @since 0.1.0
 */
export const isHotJournal = (bytes: Uint8Array): boolean =>
  bytes.length >= journalHeaderBytes && magic.every((byte, index) => bytes[index] === byte)
