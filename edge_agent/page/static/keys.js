// Stand-in until the table of all keys is there.
export const keys = { add() {} };
